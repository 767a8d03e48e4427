"""Runs exported files where asose_fast cannot be imported: python -I outside.py SCORES IMAGES FILE...

Writes the scores that each file gives for each of the batches in IMAGES, and what it says of itself, to SCORES.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch


class Refusing:
    """Finds no asose_fast, wherever it is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0].startswith("asose_fast"):
            raise ModuleNotFoundError(f"{name} is kept out")


def open_module(file):
    spec = importlib.util.spec_from_file_location("exported", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(), {"classes": list(module.CLASSES), "mean": list(module.MEAN), "std": list(module.STD)}


def open_pt2(file):
    extra = {"metadata.json": ""}
    return torch.export.load(file, extra_files=extra).module(), json.loads(extra["metadata.json"])


def open_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    return (
        lambda x: torch.from_numpy(session.run(["scores"], {"images": x.numpy()})[0]),
        {key: json.loads(value) for key, value in said.items()},
    )


def main(scores, images, *files):
    sys.meta_path.insert(0, Refusing)
    try:
        import asose_fast  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("asose_fast can be imported here")
    openers = {".py": open_module, ".pt2": open_pt2, ".onnx": open_onnx}
    batches, found = torch.load(images), {}
    for file in files:
        network, said = openers[Path(file).suffix](file)
        with torch.no_grad():
            found[file] = {"scores": [network(x) for x in batches], "said": said}
    assert not any(name.startswith("asose_fast") for name in sys.modules)
    torch.save(found, scores)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Every format gives the scores of the original, for all candidates and sizes, in a process without asose_fast."""

import importlib.util
import zipfile

import pytest
import torch

from asose_fast.export import export
from asose_fast.space import BlockSpec
from asose_fast.store import derived
from tests.export.networks import NETWORKS, difference, make_derived, make_run
from tests.helpers import ROOT, python

NO_ONNX = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(NO_ONNX), reason=f"not installed: {', '.join(NO_ONNX)}; they are asose_fast[onnx]")
ENDINGS = {"module": ".py", "pt2": ".pt2", "onnx": ".onnx"}
FORMATS = ("module", "pt2", pytest.param("onnx", marks=needs_onnx))
MEAN, STD = torch.tensor([0.3, 0.4, 0.5]).reshape(3, 1, 1), torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)


def outside(folder, files, batches):
    """What the files give in a process that has no asose_fast."""
    torch.save(batches, folder / "images.pt")
    script = ROOT / "tests" / "export" / "outside.py"
    done = python("-I", str(script), *map(str, (folder / "scores.pt", folder / "images.pt", *files)), cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "scores.pt")


@pytest.mark.parametrize("format", FORMATS)
def test_all_candidates_without_asose_fast(tmp_path, format):
    """Some in networks that are given normalised images, others in one that normalises them itself."""
    originals, runs, files = [make() for make in NETWORKS.values()], [], []
    for k, original in enumerate(originals):
        runs.append(make_run(tmp_path / str(k), original, image_size=33))
        exported = export(runs[k], format, with_normalization=k == 1)
        assert 0 <= exported.difference <= 1e-5
        assert exported.paths[0] == runs[k] / f"model{ENDINGS[format]}"
        files.append(exported.paths[0])
    batches = [torch.rand(*shape) for shape in ((1, 3, 33, 33), (2, 3, 64, 64), (11, 3, 36, 41), (1, 3, 97, 33))]
    found = outside(tmp_path, files, batches)
    for k, original in enumerate(originals):
        for x, scores in zip(batches, found[str(files[k])]["scores"], strict=True):
            with torch.no_grad():
                assert difference(scores, original((x - MEAN) / STD if k == 1 else x)) <= 1e-5
        check_what_is_said(found[str(files[k])]["said"], runs[k], format, built_in=k == 1)
    if format == "onnx":
        check_dimensions_have_names(files[0])
    elif format == "pt2":
        check_no_path_of_this_machine(files[0])


def check_what_is_said(said, run, format, built_in):
    genotype = derived.load_genotype(run)
    assert said["classes"] == [f"class {k}" for k in range(5)]
    assert said["mean"] == list(genotype.mean)
    assert said["std"] == list(genotype.std)
    if format == "module":
        text = (run / "model.py").read_text()
        assert ("network(images)" in text) == built_in
        assert ("network(Normalize()(images))" in text) != built_in
        return
    assert said["normalization"] == ("built in" if built_in else "to be done before")
    assert said["image_size"] == 33
    assert said["operations"] == list(genotype.operations)
    assert said["input"].startswith("float32 (batch, 3, height, width): ")


def check_dimensions_have_names(path):
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 3, "height", "width"], "scores": ["batch", 5]}
    assert b".py" not in path.read_bytes()


def check_no_path_of_this_machine(path):
    with zipfile.ZipFile(path) as archive:
        graphs = [archive.read(name) for name in archive.namelist() if name.endswith("model.json")]
    assert len(graphs) == 1
    assert b"aten.batch_norm" in graphs[0]
    assert b".py" not in graphs[0]


@pytest.mark.parametrize("size", [4, 5])
def test_pt2_of_small_images_takes_those(tmp_path, size):
    original = make_derived([BlockSpec(("avg_pool_3x3",), 4, 4, 2), BlockSpec(("skip_connect",), 4, 4, 2)])
    (path,) = export(make_run(tmp_path, original, image_size=size), "pt2").paths
    program = torch.export.load(path).module()
    x = torch.randn(3, 3, size, size)
    assert difference(program(x), original(x)) <= 1e-5
    other = torch.randn(3, 3, 4 if size == 5 else 5, 5)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(other)

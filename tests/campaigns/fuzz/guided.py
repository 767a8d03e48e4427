"""The loaders under a fuzzer that is guided by the coverage of their Python code (Atheris on libFuzzer).

`python -m tests.campaigns.fuzz.guided LOADER FOLDER [libFuzzer's options]` is one such run, on the corpus in FOLDER.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LOADERS = ("checkpoint", "sealed checkpoint", "genotype", "weights", "YAML file")


@dataclasses.dataclass
class GuidedReport:
    """How many inputs a run had, and what it found."""

    inputs: str
    finding: str | None


def fuzz(name: str, seconds: float, seed: int) -> GuidedReport:
    """Runs the fuzzer in a process of its own."""
    if importlib.util.find_spec("atheris") is None:
        return GuidedReport("atheris is not installed", None)
    with tempfile.TemporaryDirectory() as corpus:
        command = [sys.executable, "-m", __name__, name, corpus]
        limits = [
            f"-max_total_time={max(1, round(seconds))}",
            "-timeout=120",
            "-rss_limit_mb=8192",
            f"-seed={seed + 1}",
        ]
        done = subprocess.run(
            [*command, *limits, "-max_len=65536", f"-artifact_prefix={corpus}/"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            errors="replace",
        )
    said = done.stdout + done.stderr
    counted = re.search(r"Done (\d+) runs", said) or re.search(r"(?s:.*)#(\d+)\s", said)
    finding = f"guided: {name}: status {done.returncode}\n{said[-6000:]}" if done.returncode else None
    return GuidedReport(f"{int(counted[1]):,}" if counted else "0", finding)


def _loader(name: str) -> tuple[Callable[[bytes], object], bytes]:
    """What takes the bytes, and an input to begin with."""
    from asose_fast.store import checkpoint
    from tests.campaigns.fuzz import loaders

    files = loaders.finished_run()
    genotype, weights = files["genotype.json"], files["model.safetensors"]
    small = loaders._pickled({"a": [1, {"b": None}], "c": 2.5})
    found: dict[str, tuple[Callable[[bytes], object], bytes]] = {
        "checkpoint": (loaders.load_checkpoint, checkpoint.sealed(small)),
        "sealed checkpoint": (lambda data: loaders.load_checkpoint(checkpoint.sealed(data)), small),
        "genotype": (lambda data: loaders.load_result((data, weights)), genotype),
        "weights": (lambda data: loaders.load_result((genotype, data)), weights),
        "YAML file": (loaders.yaml_file, files["config.yaml"]),
    }
    return found[name]


def main() -> None:
    """Instruments the loaders and fuzzes one; ends the process."""
    import atheris
    import jsonargparse  # noqa: F401  these large packages, ahead of the hook that would look at all they import
    from torch import _weights_only_unpickler as unpickler

    unpickler.Unpickler.load = atheris.instrument_func(unpickler.Unpickler.load)
    with atheris.instrument_imports(include=["asose_fast"]):
        check, first = _loader(sys.argv[1])
    corpus = Path(sys.argv[2])
    (corpus / "first").write_bytes(first)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

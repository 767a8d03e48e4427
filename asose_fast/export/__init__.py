"""This package writes a derived network as what runs without asose_fast. `asose-fast export` is its command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from asose_fast.export import module, onnx, pt2
from asose_fast.export.check import image_size, largest_difference
from asose_fast.export.errors import ExportError
from asose_fast.space.cells import CellNetwork
from asose_fast.space.genotype import Genotype
from asose_fast.space.prune import pruned
from asose_fast.store import run_folder
from asose_fast.store.checkpoint import write_atomically
from asose_fast.store.derived import load_genotype, load_weights

Format = Literal["module", "pt2", "onnx"]

__all__ = ["ExportError", "Exported", "Format", "export"]


class _Traced(Protocol):
    """A traced format is made from the plain module. Its contents go by the ends of the files' names."""

    @property
    def SUFFIX(self) -> str: ...

    @property
    def NEEDS(self) -> tuple[str, ...]: ...

    def encode(self, plain: nn.Module, images: Tensor, metadata: dict[str, Any]) -> dict[str, bytes]: ...

    def decode(self, files: dict[str, bytes]) -> Callable[[Tensor], Tensor]: ...


_TRACED: dict[str, _Traced] = {"pt2": pt2, "onnx": onnx}


@dataclasses.dataclass(frozen=True)
class Exported:
    """An export says what it wrote."""

    paths: tuple[Path, ...]
    difference: float
    """The largest difference from the original on random images, as a share of the largest score, is this."""


def export(
    run: str | Path,
    format: Format,
    out: str | Path | None = None,
    *,
    with_normalization: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes the derived network of a run folder in another format, once it was seen to be the same function.

    Args:
        run: the run folder.
        format: "module": a Python file that needs torch alone, and its weights beside it, with the ending .pt;
            "pt2": for torch.export.load; "onnx": for ONNX Runtime and others. All take any number of images.
        out: the file to write; model.py, model.pt2 or model.onnx in the run folder where it is left out.
        with_normalization: whether it takes values from 0 to 1 and normalises them itself.
        overwrite: whether files that are there may be replaced.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        FileExistsError: a file is there already.
        BlockingIOError: another process is writing it.
        ValueError: an unknown format, an `out` of another ending, or a run that is damaged.
        ExportError: a package is missing, or the exported network is not the same function. No file is written then.
        CheckpointError: a file cannot be written.
    """
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}: choose from {', '.join(get_args(Format))}")
    traced = _TRACED.get(format)
    suffix = traced.SUFFIX if traced else module.CODE
    path = Path(out or Path(run) / f"model{suffix}")
    if path.suffix != suffix:
        raise ValueError(f"the file of format {format} must end in {suffix}, got {path}")
    missing = [name for name in (traced.NEEDS if traced else ()) if find_spec(name) is None]
    if missing:
        raise ExportError(f"format {format} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    genotype = load_genotype(run)
    with run_folder.claimed_file(path):
        if not overwrite:
            run_folder.require_absent([path] if traced else [path.with_suffix(module.WEIGHTS), path])
        return _export(run, genotype, traced, path, with_normalization)


def _export(
    run: str | Path, genotype: Genotype, traced: _Traced | None, path: Path, with_normalization: bool
) -> Exported:
    network = pruned(load_weights(run, genotype))
    genotype = dataclasses.replace(genotype, network=network.spec)
    files: dict[str, bytes] = {}
    if isinstance(network, CellNetwork):
        if traced is None:
            raise ExportError(
                "format module writes networks of the space chain, stages or mobile: take pt2 or onnx for one of cells"
            )
        plain: nn.Module = Normalized(network, genotype.mean, genotype.std) if with_normalization else network
    else:
        files = module.encode(genotype, network, with_normalization)
        plain = module.decode(files)
    function: Callable[[Tensor], Tensor] = plain
    if traced:
        side = image_size(genotype)
        images = torch.zeros(2, genotype.network.in_channels, side, side)
        files = traced.encode(plain, images, metadata(genotype, with_normalization))
        function = traced.decode(files)
    difference = largest_difference(network, function, genotype, with_normalization)

    paths = {path.with_suffix(ending): content for ending, content in files.items()}
    for file, content in reversed(paths.items()):  # the weights first: no module is ever without them
        write_atomically(file, content)
    return Exported(tuple(paths), difference)


class Normalized(nn.Module):
    """This network takes values from 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network((x - self.mean) / self.std)
        return y


def metadata(genotype: Genotype, with_normalization: bool) -> dict[str, Any]:
    """Returns what an exported file says of itself."""
    channels, classes = genotype.network.in_channels, genotype.network.classes
    values = "values from 0 to 1" if with_normalization else "(value - mean) / std for values from 0 to 1"
    return {
        "input": f"float32 (batch, {channels}, height, width): {values}",
        "output": f"float32 (batch, {classes}): scores of the classes, before the softmax",
        "normalization": "built in" if with_normalization else "to be done before",
        "mean": genotype.mean,
        "std": genotype.std,
        "classes": genotype.classes,
        "image_size": genotype.image_size,
        "operations": genotype.operations,
    }

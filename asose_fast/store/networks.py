"""A network comes from a run folder, or from a file that `asose-fast export` wrote. Both say which images it takes."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asose_fast.bounds import MOST_SIDE
from asose_fast.paths import given_path
from asose_fast.store.derived import GENOTYPE, load_genotype, load_weights

MODULE, PROGRAM, ONNX = ".py", ".pt2", ".onnx"
"""The names of exported files end so, one for each format."""
METADATA = "metadata.json"
"""A program has what it says of itself in this extra file."""
INPUT, OUTPUT = "images", "scores"
"""An ONNX model has these names for what it takes and gives."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to images before a network gets them is the same as in its training.

    Raises ValueError where the parts do not fit each other.
    """

    classes: tuple[str, ...]
    """Score c is that of the class named classes[c]."""
    mean: tuple[float, ...]
    """The network takes (value - mean) / std, for values from 0 to 1; there is one for each channel."""
    std: tuple[float, ...]
    """Each channel has a standard deviation, likewise."""
    image_size: int
    """Images are resized and cropped to squares of this side."""

    def __post_init__(self) -> None:
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError("its classes are no names")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} stds are not those of 1 or 3 channels")
        if type(self.image_size) is not int or not 0 < self.image_size <= MOST_SIDE:
            raise ValueError("it does not say which side the images of the training had: export the run again")

    @property
    def mode(self) -> str:
        """Returns Pillow's name for images of so many channels."""
        return "L" if len(self.mean) == 1 else "RGB"


@dataclasses.dataclass(frozen=True)
class LoadedNetwork:
    """The function takes images as `prepared` says, float32 (N, C, H, W), and returns scores (N, classes)."""

    scores: Callable[[Tensor], Tensor]
    prepared: Preparation


def load(place: str | Path) -> LoadedNetwork:
    """Returns the network of a run folder or of an exported file, in evaluation mode on the CPU.

    A Python file is run, as an import of it would.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds no finished run.
        ValueError: the file is damaged, or none that an export wrote; onnxruntime is missing.
    """
    path = given_path(place)
    if path.is_dir() or path.name == GENOTYPE:
        return _of_run(path if path.is_dir() else path.parent)
    read = {MODULE: _of_module, PROGRAM: _of_program, ONNX: _of_onnx}.get(path.suffix)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give a run folder, or a file that export wrote")
    if read is None:
        raise ValueError(f"{path} is no network: give a run folder, or what export wrote (.py, .pt2 or .onnx)")
    try:
        return read(path)
    except OSError:
        raise
    except Exception as error:  # what is in none of these formats raises many types
        why = (str(error) or type(error).__name__).splitlines()[0] + " is missing" * isinstance(error, KeyError)
        raise ValueError(f"{path} cannot be used as a network that export wrote: {why}") from error


def _of_run(run: Path) -> LoadedNetwork:
    genotype = load_genotype(run)
    try:
        prepared = Preparation(genotype.classes, genotype.mean, genotype.std, genotype.image_size or 0)
    except ValueError as error:
        raise ValueError(f"{run / GENOTYPE}: {error}") from error
    return LoadedNetwork(load_weights(run, genotype), prepared)


def _of_module(path: Path) -> LoadedNetwork:
    found: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_bytes(), path, "exec"), found)  # an import would leave a cache beside the file
    network = found["load"]()
    built_in = hasattr(network, "normalize")
    prepared = _prepared(found["CLASSES"], found["MEAN"], found["STD"], found.get("IMAGE_SIZE"), built_in)
    return LoadedNetwork(network, prepared)


def _of_program(path: Path) -> LoadedNetwork:
    if not zipfile.is_zipfile(path):  # torch would print a traceback before it raises
        raise ValueError("it is no zip archive")
    extra: dict[str, Any] = {METADATA: ""}
    network = torch.export.load(path, extra_files=extra).module()
    return LoadedNetwork(network, _of_metadata(json.loads(extra[METADATA])))


def _of_onnx(path: Path) -> LoadedNetwork:
    if find_spec("onnxruntime") is None:
        raise ValueError("onnxruntime is missing: pip install onnxruntime")
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}

    def scores(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])

    return LoadedNetwork(scores, _of_metadata(metadata))


def _of_metadata(values: Mapping[str, Any]) -> Preparation:
    built_in = values["normalization"] == "built in"
    return _prepared(values["classes"], values["mean"], values["std"], values["image_size"], built_in)


def _prepared(classes: Any, mean: Any, std: Any, image_size: Any, built_in: bool) -> Preparation:
    """Leaves the normalisation out where the network has it in itself."""
    if built_in:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    return Preparation(tuple(classes), tuple(mean), tuple(std), image_size or 0)

"""`genotype.json` and `model.safetensors` hold what a run found. `save` writes them, `load` reads and checks them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import safetensors.torch
import torch
from torch import Tensor, nn

from asose_fast import files
from asose_fast.paths import given_path
from asose_fast.program import spelled
from asose_fast.space.build import ImageNetwork, build
from asose_fast.space.genotype import Genotype
from asose_fast.store import library_search
from asose_fast.store.checkpoint import CheckpointError, write_atomically, write_json
from asose_fast.store.checkpoint_folder import holds_checkpoints, load_newest

GENOTYPE, WEIGHTS = "genotype.json", "model.safetensors"


def save(
    run: str | Path,
    network: ImageNetwork,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None,
) -> int:
    """Writes a derived network into a run folder. Returns the bytes of its weights.

    The other arguments are those of Genotype.

    Raises ValueError where they do not fit the network, and CheckpointError.
    """
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    digest = hashlib.sha256(weights).hexdigest()
    genotype = Genotype(network.spec, tuple(classes), tuple(mean), tuple(std), image_size, digest)
    write_json(Path(run) / GENOTYPE, genotype.to_dict())
    write_atomically(Path(run) / WEIGHTS, weights)
    return len(weights)


@overload
def load(run: str | Path) -> ImageNetwork: ...


@overload
def load(run: str | Path, model: nn.Module) -> nn.Module: ...


def load(run: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Returns the derived network of a run folder, with its weights, on the CPU, in evaluation mode.

    Its input is (N, C, H, W) float32, normalised as `genotype.json` says. Its output is (N, classes), the scores before
    the softmax.

    Args:
        run: the folder.
        model: for a folder of `asose_fast.search`, the model that was searched, whatever its weights, which stay as
            they are. The chosen candidates take the place of its MixedOps.

    Raises:
        FileNotFoundError: the folder holds no finished run, or is of `asose_fast.search` and no model is given.
        OSError: a file cannot be read, or is none.
        ValueError: the genotype or the weights are damaged, foreign, or not of one run, or the model is another than
            that which was searched; the message names the file.
        CheckpointError: the file of the network that was found in a model is damaged.
    """
    folder = given_path(run)
    return load_weights(folder, load_genotype(folder)) if model is None else library_search.load(folder, model)


def load_genotype(run: str | Path) -> Genotype:
    """Returns what `genotype.json` of a run folder says. Raises as `load`."""
    path = _existing(Path(run) / GENOTYPE)
    values = files.read_json(path)
    try:
        return Genotype.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def load_weights(run: str | Path, genotype: Genotype) -> ImageNetwork:
    """Returns the network of `genotype` with the weights of a run folder, in evaluation mode. Raises as `load`."""
    path = _existing(Path(run) / WEIGHTS)
    content = files.read(path, files.MOST_TENSORS)
    if genotype.weights_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError(f"{path} is damaged, or not what {GENOTYPE} beside it was written with")
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:  # what is not in the format raises many types
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from error
    if unlike := _unlike(_empty_state(genotype), weights):
        raise ValueError(f"{path} is not of the network in {GENOTYPE} beside it: {unlike}")
    network = build(genotype.network)
    network.load_state_dict(weights)
    return network.eval()


def _existing(path: Path) -> Path:
    if os.path.lexists(path):
        return path
    folder, hint = path.parent, ""
    if holds_checkpoints(folder / "checkpoints"):
        with contextlib.suppress(CheckpointError):  # of none that can be read it is known that it has not ended
            if library_search.wrote(load_newest(folder / "checkpoints", lambda _: None)[1]):
                raise FileNotFoundError(library_search.refusal(folder))
        hint = f"; it has not ended: {spelled('train')} --resume {shlex.quote(str(folder))}"
    raise FileNotFoundError(f"{folder} holds no finished run: there is no {path.name}{hint}")


def _empty_state(genotype: Genotype) -> dict[str, Tensor]:
    """Returns the network's state without its values, and so without the memory that a damaged genotype may ask for."""
    try:
        with torch.device("meta"):
            return build(genotype.network).state_dict()
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{GENOTYPE} is damaged: it is of no network that can be built ({reason})") from error


def _unlike(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    """Says the first difference in names, shapes or dtypes."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is unknown"
        sides = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (wanted[name], found[name])]
        if sides[0] != sides[1]:
            return f"{name} should be {sides[0]}, is {sides[1]}"
    return None

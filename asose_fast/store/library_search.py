"""The folder of an `asose_fast.search` keeps the network that was found, which is rebuilt in the user's own model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork
from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError

NETWORK = "network.pt"


def wrote(state: dict[str, Any]) -> bool:
    """Returns whether a checkpoint is of `asose_fast.search`: it names the mixed operations of the model."""
    return "mixed" in state


def refusal(folder: Path) -> str:
    """Returns why no command takes the folder, and what to do instead."""
    return (
        f"{folder} is of asose_fast.search: in Python, asose_fast.load({str(folder)!r}, model) gives the network that "
        "was found, where `model` is the one that was searched, and what comes after is done with that. The same call "
        "of search goes on in this folder, and returns its result once more when it has ended"
    )


def save(folder: Path, searched: CustomNetwork, path: Sequence[int], found: nn.Module) -> None:
    """Writes the candidates `path`, one a mixed operation of `searched`, and the state of the model that they give.

    Raises CheckpointError.
    """
    checkpoint.save(
        folder / NETWORK, {"mixed": _candidates(searched), "path": list(path), "network": found.state_dict()}
    )


def load(folder: Path, model: nn.Module) -> nn.Module:
    """Returns the model that was found, on the CPU, in evaluation mode; `model`, which was searched, stays as it is.

    Raises:
        FileNotFoundError: the folder is of no search that has ended.
        CheckpointError: `network.pt` is damaged.
        ValueError: the model is another than that which was searched.
    """
    if not os.path.lexists(folder / NETWORK):
        raise FileNotFoundError(
            f"{folder} holds no network of asose_fast.search: there is no {NETWORK}, which that writes when it ends. "
            "The same call with this folder goes on; the network of a command is loaded without a model"
        )
    saved = checkpoint.load(folder / NETWORK)
    network = CustomNetwork(model)
    try:
        if saved["mixed"] != _candidates(network):
            raise ValueError("it was searched in other mixed operations or candidates")
        found = deepcopy(network.derive(saved["path"]).model).cpu()
        found.load_state_dict(saved["network"])
    except KeyError as error:
        raise CheckpointError(f"{folder / NETWORK} is damaged: {error} is missing") from error
    except (ValueError, RuntimeError) as error:  # the latter is of torch, for other names or shapes
        raise ValueError(f"{folder / NETWORK} is not of this model: {error}") from error
    return found.eval()


def _candidates(network: CustomNetwork) -> dict[str, list[str]]:
    return {name: list(op.ops) for name, op in network.mixed.items()}

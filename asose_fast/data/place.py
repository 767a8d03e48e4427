"""Images may move, and a run goes on: its settings say where they lie, and their digest whether they are the same."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from asose_fast.data.cache import AUTO, folder_of
from asose_fast.data.config import FILES, DataConfig, kind_of
from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.load import AnyConfig, Data, Trained, load_data
from asose_fast.paths import given_path

PLACES = ("dataset", "data_root")
"""These settings say where the images lie. The former says which set they are, too."""


def absolute(config: AnyConfig) -> AnyConfig:
    """Returns the settings with the place of the images, and of their cache, as it is from any working folder."""
    if config.cache_root not in (None, AUTO):
        config = dataclasses.replace(config, cache_root=os.path.abspath(folder_of(config.cache_root)))
    if (path := config.folder or config.table) is not None:
        return dataclasses.replace(config, dataset=f"{config.kind}:{os.path.abspath(path)}")
    if config.downloaded:
        return dataclasses.replace(config, data_root=os.path.abspath(given_path(config.data_root)))
    return config


def moved(config: AnyConfig, dataset: str | None = None, data_root: str | None = None) -> AnyConfig:
    """Returns the settings with another place of the same images. None: that which they have.

    Raises DataError for another kind of set, or a `data_root` of a set that is not downloaded.
    """
    new = dataclasses.replace(
        config,
        dataset=config.dataset if dataset is None else dataset,
        data_root=config.data_root if data_root is None else data_root,
    )
    if new.kind != config.kind:
        raise DataError(
            f"the run is of {config.dataset}, and {new.dataset} are other images: dataset may only say where the same "
            "images lie now"
        )
    if data_root is not None and not config.downloaded:
        raise DataError(
            f"data_root is where downloaded sets are kept, and the run is of {config.dataset}: leave it out"
        )
    return absolute(new)


def without_place(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings, as plain values, without the place of the images, in which runs of one kind may differ."""
    values = {name: value for name, value in settings.items() if name not in ("data_root", "cache_root")}
    return {**values, "dataset": kind_of(values["dataset"])} if isinstance(values.get("dataset"), str) else values


def load_again(
    config: DataConfig, batch_size: int, seed: int, device: torch.device, *, trained: Trained = "each"
) -> Data:
    """Loads the images of a run that exists, as `load_data`. Where they are gone, the error says how to name their new
    place."""
    try:
        return load_data(config, batch_size, seed, device, trained=trained)
    except DataNotFoundError as error:
        option = f"--dataset {config.kind}:PATH" if config.kind in FILES else "--data_root FOLDER"
        raise DataNotFoundError(f"{error}. If the images have moved, give {option}, where they lie now") from error


def require_outside(config: DataConfig, out: Path) -> None:
    """Raises DataError for a folder to be written that lies within that of the images."""
    if config.folder is not None and out.resolve().is_relative_to(config.folder.resolve()):
        raise DataError(
            f"{out} lies in {config.folder}, the folder of the images, where the next run would take it for a class or "
            "a split: give an --out outside of it"
        )

"""A configuration names its source."""

from __future__ import annotations

from asose_fast.data.config import DataConfig
from asose_fast.data.sources.digits import digits
from asose_fast.data.sources.image_folder import image_folder
from asose_fast.data.sources.source import Source
from asose_fast.data.sources.table import table
from asose_fast.data.sources.torchvision_set import torchvision_set


def find_source(config: DataConfig) -> Source:
    """Looks the images up, and downloads them where that is needed. Raises DataError."""
    if config.folder is not None:
        return image_folder(config.folder, config.image_size)
    if config.table is not None:
        return table(config.table, config.image_size)
    if config.dataset == "digits":
        return digits()
    return torchvision_set(config.dataset, config.data_root)

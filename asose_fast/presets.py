"""The commands for images begin with these settings where no others are given."""

from __future__ import annotations

from typing import Any

IMAGES: dict[str, Any] = {
    "space": "stages",
    "channels": 24,
    "depth": 3,
    "max_depth": 6,
    "warmup_epochs": 8,
    "search_epochs": 12,
    "growth_epochs": 5,
    "optimize_epochs": 75,
    "learning_rate": 0.1,
    "nesterov": True,
    "derive_min_share": 0.75,
    "optimize_weight_decay": 1e-3,
    "optimize_from": "scratch",
    "optimize_on": "all",
    "warmup_share": 0.2,
    "ema_decay": 0.998,
    "label_smoothing": 0.1,
    "cutmix": 1.0,
    "mix_share": 0.5,
}
"""These are settings of `Config`, whose own defaults are those of the original search, for any network. For images they
give the space of plain networks, no small one of these, and a recipe that trains what is derived on all images
(docs/evidence.md).

    config = Config(**{**IMAGES, "dataset": "cifar10"})
"""

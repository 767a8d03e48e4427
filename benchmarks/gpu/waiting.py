"""Does a search make the host wait for the GPU? Whole epochs on digits under the strictest watch that PyTorch has."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import torch

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from benchmarks.counting import HostWaits
from benchmarks.gpu.table import Table

SMALL = {"batch_size": 16, "channels": 8, "depth": 2}


def synchronising(table: Table) -> None:
    """Second epochs of warmup, search and growth (the first one loads kernels); an error names what waited. On the CPU,
    what would."""
    estimators = ("straight_through",) if table.dry else ("straight_through", "soft", "two_path")
    for estimator in estimators:
        for number, phase in enumerate(("warmup", "search", "growth")):

            def epoch(estimator: str = estimator, number: int = number) -> str:
                config = Config(estimator=estimator, **SMALL, limit_train=160 if table.dry else 640)
                with tempfile.TemporaryDirectory() as folder:
                    data = load_data(config, config.batch_size, 0, table.device)
                    trainer = Trainer(SearchState(ImageTask(config, data, table.device)), Path(folder))
                    if table.device.type == "cpu":
                        with HostWaits(free=[trainer.state.alpha_optimizer]) as waits:
                            trainer._train_epoch(trainer.state.phases[number])
                        return f"{dict(Counter(waits.found))} in {trainer.state.progress.step} batches"
                    trainer._train_epoch(trainer.state.phases[number])
                    trainer.state.progress.step = 0
                    torch.cuda.synchronize()
                    torch.cuda.set_sync_debug_mode("error")
                    try:
                        trainer._train_epoch(trainer.state.phases[number])
                    finally:
                        torch.cuda.set_sync_debug_mode("default")
                    return f"none in {trainer.state.progress.step} batches"

            table.attempt(f"waits of an epoch of {phase}, {estimator}", epoch)

"""What several tests build: small configurations, networks and trainers, and an independent forward pass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.config import CANDIDATES, Config
from asose_fast.data import load_data
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.presets import IMAGES
from asose_fast.space import Network, NetworkSpec

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
OF_BLOCKS = ("chain", "stages")
"""The spaces of evolvable blocks."""
FEW = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
TINY = {
    "limit_train": 120,
    "limit_test": 40,
    "batch_size": 20,
    "channels": 4,
    "depth": 2,
    "candidates": FEW,
    "warmup_epochs": 1,
    "search_epochs": 2,
    "growth_epochs": 1,
    "optimize_epochs": 1,
    "alpha_every": 3,
    "recalibration_batches": 2,
}
"""A run of about a second: 90 training images in 5 batches, the last of 10, and 30 validation images in 2."""


def make_config(**changes: object) -> Config:
    return Config(**{**TINY, **changes})


def make_trainer(folder: Path, observers: Sequence[object] = (), **changes: object) -> Trainer:
    config = make_config(**changes)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    data = load_data(config, config.batch_size, config.seed, CPU)
    return Trainer(SearchState(ImageTask(config, data, CPU)), folder, observers)


def make_network(
    candidates: Sequence[str] = CANDIDATES, depth: int = 4, channels: int = 4, classes: int = 5, space: str = "chain"
) -> Network:
    config = make_config(space=space, candidates=candidates, depth=depth, channels=channels)
    return Network(
        NetworkSpec.stages(config, 3, classes) if space == "stages" else NetworkSpec.chain(config, 3, classes)
    )


def make_selector(
    candidates: Sequence[str] = CANDIDATES, layers: int = 4, seed: int = 0, **changes: object
) -> Selector:
    return Selector(make_config(candidates=candidates, **changes), candidates, layers, seed, CPU)


def make_batch(images: int = 6, size: int = 9, classes: int = 5, dtype: torch.dtype = torch.float32) -> tuple:
    x = torch.randn(images, 3, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.arange(images) % classes


def plain_forward(network: Network, x: Tensor, weights: Tensor) -> Tensor:
    """The network in plain PyTorch: every candidate is computed and multiplied by its weight."""
    x = network.stem(x)
    for block, row in zip(network.evolvable_blocks(), weights, strict=True):
        mixed = sum(w * op(x) for w, op in zip(row, block.mixed.ops.values(), strict=True))
        shortcut = x
        if block.spec.stride == 2:
            shortcut = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        x = shortcut + block.gain * (mixed - shortcut)
        x = x if block.project is None else block.project(x)
    return network.head(x)


def plain_loss(network: Network, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return F.cross_entropy(plain_forward(network, x, weights), y)


def candidates_of(network: Network) -> Iterator[tuple[int, str, torch.nn.Module]]:
    """(layer, name, module) of every candidate."""
    for layer, block in enumerate(network.evolvable_blocks()):
        for name, op in block.mixed.ops.items():
            yield layer, name, op


class OnStep:
    """An observer that calls `action(state)` after every weight step."""

    def __init__(self, action: Callable[[SearchState], None]) -> None:
        self.on_step = action

    def on_epoch_start(self, state: SearchState, phase: object) -> None: ...

    def on_epoch_end(self, state: SearchState, record: object) -> None: ...


def options(**changes: object) -> list[str]:
    """Command-line options for the run of TINY, which is that of `make_config`."""
    values = {**{name: getattr(Config(), name) for name in IMAGES}, **TINY, **changes}
    return [f"--{key}={_written(value)}" for key, value in values.items()]


def _written(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return words[value] if value is None or isinstance(value, bool) else str(value)


def python(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the interpreter on one thread and returns what it wrote."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
INSTRUCTION_SETS = {
    "generic": (),
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
}
"""What each instruction set of the CPU kernels needs of the processor."""


def skip_without(isa: str) -> None:
    """Skips a test of an instruction set that this processor has not."""
    if any(flag not in FLAGS for flag in INSTRUCTION_SETS[isa]):
        pytest.skip(f"this processor has no {isa}")


def with_thread_counts(function: Callable[[], T]) -> list[T]:
    """What `function()` returns with 1, 2 and 3 threads, and with 3 once more. The next test has its own count."""
    results = []
    for threads in (1, 2, 3, 3):
        torch.set_num_threads(threads)
        results.append(function())
    return results


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *arguments: object) -> str:
    """The one error with which a command ends."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if not line.startswith("warning: "))
    assert line.startswith("error: ")
    return line

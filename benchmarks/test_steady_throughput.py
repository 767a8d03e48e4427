"""Does throughput hold? Images per second over a search of at least 200 steps, window by window, uneven last batches
included: the trend and the spread."""

import itertools
import statistics
import time

import torch

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer

WINDOW = 20


class Stopwatch:
    """Counts the images and the time of the search phase's steps."""

    def __init__(self):
        self.images, self.times, self.searching = [], [], False

    def on_epoch_start(self, state, phase):
        self.searching = phase.name == "search"

    def on_step(self, state):
        if self.searching:
            self.images.append(state.weight_meter.images + state.alpha_meter.images)
            self.times.append(time.perf_counter())

    def on_epoch_end(self, state, record): ...


def test_steady_throughput(benchmark, report, tmp_path, dry):
    """A constant architecture (alpha learns at rate 0), so that a change of speed is not one of sampled operations."""
    config = Config(
        dataset="digits", batch_size=50, warmup_epochs=1, search_epochs=10 if dry else 19, growth_epochs=1,
        optimize_epochs=1, alpha_learning_rate=0.0, alpha_noise=0.0, temperature_decay=1.0,
    )  # fmt: skip
    data = load_data(config, config.batch_size, config.seed, torch.device("cpu"))
    assert len(data.train) % config.batch_size, "the last batch must be uneven"
    watch = Stopwatch()
    (tmp_path / "checkpoints").mkdir()
    task = ImageTask(config, data, torch.device("cpu"))
    trainer = Trainer(SearchState(task), tmp_path, [watch])
    benchmark.pedantic(trainer.run, rounds=1)

    steps = [  # images and seconds of each step; the first of an epoch follows an evaluation and is left out
        (images - before, now - then)
        for (before, images), (then, now) in zip(
            itertools.pairwise(watch.images), itertools.pairwise(watch.times), strict=True
        )
        if images > before
    ]
    assert len(steps) >= 200
    windows = [steps[i : i + WINDOW] for i in range(0, len(steps) - WINDOW + 1, WINDOW)]
    rates = [sum(images for images, _ in w) / sum(seconds for _, seconds in w) for w in windows]
    trend = statistics.linear_regression(range(len(rates)), rates).slope * (len(rates) - 1) / statistics.mean(rates)
    report(f"throughput over {len(steps)} search steps, images/s by window", [round(r) for r in rates])
    report("throughput: change from first to last window (fit)", f"{trend:+.1%}")
    report(
        "throughput: spread of windows (standard deviation / mean)",
        f"{statistics.stdev(rates) / statistics.mean(rates):.1%}",
    )
    assert sum(r["batch_size_errors"] for r in trainer.state.history) == 0

"""A comparison trains as its run does."""

import dataclasses

from asose_fast.data import load_data
from asose_fast.engine.comparison.training import STEPS, seconds_per_epoch, training_config
from asose_fast.engine.step.optimizers import of_derived
from asose_fast.presets import IMAGES
from asose_fast.space import NetworkSpec
from tests.helpers import CPU, FEW, make_config


def test_the_settings_are_those_of_the_phase_optimize():
    config = make_config(
        **{
            **IMAGES,
            "optimize_learning_rate": 0.07,
            "gradient_clip": 3.0,
            "momentum": 0.8,
            "precision": "bf16",
            "device": "cpu",
            "threads": 3,
            "augment": False,
            "channels": 20,
        }
    )
    settings, run = training_config(config, 7, 11), dataclasses.asdict(of_derived(config))
    assert (settings.epochs, settings.seed, settings.channels, settings.keep_validation) == (7, 11, None, False)
    assert (settings.learning_rate, settings.weight_decay, settings.drop_path) == (0.07, 1e-3, 0.0)
    own = {"epochs", "seed", "channels", "cells"}
    shared = {name: value for name, value in dataclasses.asdict(settings).items() if name in run.keys() - own}
    assert shared == {name: run[name] for name in shared}
    assert {"nesterov", "cutmix", "ema_decay", "threads", "precision", "device", "dataset", "limit_train"} <= {*shared}
    assert training_config(make_config(batch_size=1), 1, 0).batch_size == 2


def test_steps_are_timed_on_a_network_that_is_thrown_away(monkeypatch):
    config = training_config(make_config(), 1, 0)
    data = load_data(config, config.batch_size, config.seed, CPU)
    supernet = NetworkSpec.chain(make_config(candidates=FEW[3:]), 1, 10)
    ticks = iter(range(1000))
    monkeypatch.setattr("asose_fast.engine.comparison.training.time.perf_counter", lambda: 0.5 * next(ticks))
    seconds = seconds_per_epoch(config, supernet, data, CPU)
    assert seconds > 0
    assert seconds % (data.joined.train.num_batches() * 0.5) == 0
    assert next(ticks) < 20 * STEPS

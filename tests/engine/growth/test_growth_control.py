"""Which kind of growth is next, what the ceilings forbid, what is said; and a run with all of it, resumed anywhere."""

import io
import json
import signal

import pytest
import torch
from rich.console import Console

from asose_fast.config import Config
from asose_fast.engine import result
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.growth.control import describe
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.result import write_result
from asose_fast.observe.console import ConsoleObserver
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.space.cost import largest_derived
from asose_fast.space.prune import pruned_spec
from asose_fast.store import checkpoint
from tests.helpers import FEW, OnStep, make_config, make_trainer

GROWING = {
    "growth_patience": 1,
    "growth_threshold": 99.0,
    "growth_epochs": 5,
    "growth_candidates": ("dil_conv_3x3",),
    "opening_steps": 3,
    "search_epochs": 1,
    "optimize_epochs": 1,
}
"""Grows in every epoch of the phase but the last: deeper, wider, by a branch, deeper."""
TIMINGS = ("seconds", "images_per_second", "health")


def grow(trainer, times, accuracy=0.0):
    """The events of stalls one after the other."""
    for _ in range(times):
        event = trainer.state.grow_if_stalled(trainer.state.phases[2], accuracy)
        trainer.state.history.append({"growth": event})
    return [record["growth"] for record in trainer.state.history]


def trainer_of(folder, **changes):
    return make_trainer(folder, **{"growth_patience": 1, "growth_epochs": 9, **changes})


def test_kinds_take_turns(tmp_path):
    trainer = trainer_of(tmp_path, growth_candidates=("dil_conv_3x3", "conv_7x1_1x7"))
    kinds = [event["kind"] for event in grow(trainer, 8)]
    assert kinds == ["deeper", "wider", "branch", "deeper", "wider", "branch", "deeper", "wider"]
    assert trainer.state.selector.candidates == [*FEW, "dil_conv_3x3", "conv_7x1_1x7"]
    assert trainer.state.network.spec.blocks[0].candidates == (*FEW, "dil_conv_3x3", "conv_7x1_1x7")
    assert len(trainer.state.network.blocks) == 5


def test_without_candidates_to_add_deeper_and_wider_alternate(tmp_path):
    assert [event["kind"] for event in grow(trainer_of(tmp_path), 4)] == ["deeper", "wider", "deeper", "wider"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("wider",), ["wider"] * 3),
        (("wider", "deeper"), ["wider", "deeper", "wider"]),
        (("branch",), [None] * 3),
        ((), [None] * 3),
    ],
)
def test_kinds_are_a_setting(tmp_path, kinds, expected):
    assert [event and event["kind"] for event in grow(trainer_of(tmp_path, growth_kinds=kinds), 3)] == expected


@pytest.mark.parametrize(("factor", "expected"), [(1.01, 9), (1.5, 12), (2.0, 16), (2.3, 18)])
def test_a_stage_gets_wider_by_the_factor_and_by_one_channel_at_least(tmp_path, factor, expected):
    trainer = trainer_of(tmp_path, growth_kinds=("wider",), growth_factor=factor)
    assert grow(trainer, 1) == [{"kind": "wider", "stage": 1, "channels": expected, "before": 8}]
    assert trainer.state.network.spec.widths == (4, expected)


def test_growth_ends_at_the_largest_depth(tmp_path):
    trainer = trainer_of(tmp_path, growth_kinds=("deeper",), max_depth=4)
    reason = {"deeper": "4 blocks are as many as max_depth = 4 allows"}
    assert [event.get("depth") for event in grow(trainer, 4)] == [3, 4, None, None]
    assert trainer.state.history[-1]["growth"] == {"kind": "none", "skipped": reason}
    assert len(trainer.state.network.blocks) == len(trainer.state.selector.alpha) == 4


def test_a_kind_that_cannot_be_is_skipped_and_said(tmp_path):
    trainer = trainer_of(tmp_path, max_depth=2)
    events = grow(trainer, 2)
    assert [event["kind"] for event in events] == ["wider", "wider"]
    assert "max_depth = 2" in events[0]["skipped"]["deeper"]


@pytest.mark.parametrize("name", ["parameters", "flops"])
def test_no_growth_breaks_a_ceiling(tmp_path, name):
    start = getattr(largest_derived(trainer_of(tmp_path).state.network.spec, 8), name)
    bound = round(1.6 * start)
    trainer = trainer_of(tmp_path, growth_candidates=("sep_conv_7x7",), max_depth=20, **{f"max_{name}": bound})
    events = grow(trainer, 8)
    assert start < getattr(largest_derived(trainer.state.network.spec, 8), name) <= bound
    assert events[0]["kind"] != "none"
    assert events[-1]["kind"] == "none"
    assert events[-1]["skipped"].keys() == {"deeper", "wider", "branch"}
    assert all(reason.endswith(f"above max_{name} = {bound:,}") for reason in events[-1]["skipped"].values())


def test_a_stage_that_cannot_be_wider_is_said_and_the_run_goes_on(tmp_path):
    trainer = trainer_of(tmp_path, channels=1, growth_kinds=("wider", "deeper"), depth=2)
    events = grow(trainer, 3)
    assert [event["kind"] for event in events] == ["wider", "deeper", "deeper"]
    assert "stage" not in events[2]
    assert "FactorizedReduce of one channel" in events[2]["skipped"]["wider"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"growth_factor": 1.0}, r"growth_factor must be above 1 and at most 100, got 1\.0"),
        ({"growth_factor": float("nan")}, "growth_factor must be above 1"),
        ({"growth_noise": -0.1}, "growth_noise must be at least"),
        ({"opening_steps": 0}, "opening_steps must be at least 1"),
        ({"growth_kinds": ("wider", "wider")}, "growth_kinds must differ from each other, got wider, wider"),
        ({"growth_candidates": ("sep_conv5x5",)}, "unknown candidate 'sep_conv5x5': did you mean 'sep_conv_5x5'"),
        ({"growth_candidates": ("skip_connect",)}, "skip_connect cannot be added to the candidates: it is one of them"),
        ({"growth_candidates": ("dil_conv_3x3",) * 2}, "dil_conv_3x3 cannot be added to the candidates"),
        ({"max_parameters": 50}, r"at the start already, a network of \d+ parameters .* above max_parameters = 50"),
        ({"max_flops": 1000}, r"at the start already, a network of [\d,]+ flops .* above max_flops = 1,000"),
    ],
)
def test_bad_settings_are_refused_before_the_run(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **changes)


def test_every_event_is_described():
    skipped = {"wider": "too large"}
    assert describe({}) == []
    assert describe({"kind": "none", "skipped": skipped}) == ["not grown wider: too large"]
    assert describe({"kind": "deeper", "position": 3, "depth": 7, "skipped": skipped}) == [
        "not grown wider: too large",
        "grown deeper: block 4 is new, depth 7",
    ]
    assert describe({"kind": "wider", "stage": 1, "channels": 48, "before": 32}) == [
        "grown wider: stage 2 has 48 channels instead of 32"
    ]
    assert describe({"kind": "branch", "candidate": "dil_conv_3x3", "candidates": 5}) == [
        "grown by a branch: candidate dil_conv_3x3 is new, 5 in each block"
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.manual_seed(123)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    said = io.StringIO()
    observers = [ConsoleObserver(Console(file=said, width=200)), MetricsObserver(folder / "metrics.jsonl")]
    trainer = make_trainer(folder, observers, **GROWING)
    trainer.run()
    return trainer, folder, said.getvalue()


def test_a_run_that_grows_tells_it_everywhere(undisturbed):
    trainer, folder, said = undisturbed
    events = [record["growth"] for record in trainer.state.history if record.get("growth")]
    assert [event["kind"] for event in events] == ["deeper", "wider", "branch", "deeper"]
    assert all(line in said for event in events for line in describe(event))
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["growth"] for record in written if record.get("growth")] == events
    summary = write_result(trainer.state, trainer.state.data, folder)
    assert summary["growth"] == events
    assert summary["depth"] + len(summary["left_out"]) == 4
    network, batch = result.load(folder), next(trainer.state.data.test.batches(0))[0]
    assert network.spec == pruned_spec(trainer.state.network.spec)
    assert torch.equal(network(batch), trainer.state.best_network()(batch))
    assert Config.from_dict(json.loads(json.dumps(trainer.state.config.to_dict()))) == make_config(**GROWING)


def test_growth_keeps_what_the_epoch_measured(tmp_path):
    """The derived path of a grown network has the validation accuracy that its epoch ended with."""
    seen = []

    class Compare:
        def on_epoch_start(self, state, phase): ...

        def on_step(self, state): ...

        def on_epoch_end(self, state, record):
            if record["phase"] == "growth":
                valid = state.data.valid.batches(0, shuffle=False, augment=False)
                path = state.selector.best_path()
                seen.append((accuracy(state.network.derive(path), valid), record["valid_accuracy"]))

    make_trainer(tmp_path, [Compare()], **GROWING).run()
    assert len(seen) == 5
    assert all(grown == measured for grown, measured in seen)


@pytest.mark.parametrize(("epoch", "step"), [(2, 5), (3, 1), (4, 2), (5, 1), (5, 3), (6, 4), (7, 1)])
def test_a_run_stopped_after_each_kind_of_growth_ends_as_if_it_had_not_been(tmp_path, undisturbed, epoch, step):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            state.stop(signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match=rf"epoch {epoch + 1} of 8, step {step}"):
        make_trainer(tmp_path, [OnStep(stop)], **GROWING).run()
    torch.manual_seed(987654)
    resumed = make_trainer(tmp_path, **GROWING)
    resumed.state.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
    resumed.run()
    trainer = undisturbed[0]
    assert resumed.state.network.spec == trainer.state.network.spec
    for (name, a), b in zip(
        trainer.state.network.state_dict().items(), resumed.state.network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert torch.equal(trainer.state.selector.logits(), resumed.state.selector.logits())
    histories = [
        [{k: v for k, v in r.items() if k not in TIMINGS} for r in t.state.history] for t in (trainer, resumed)
    ]
    assert histories[0] == histories[1]

"""Several processes: the same batches, gradients, statistics, decisions and end as one."""

import contextlib
import copy
import dataclasses
import io
import signal
from unittest import mock

import pytest
import torch
from torch import nn

from asose_fast import train
from asose_fast.config import CANDIDATES
from asose_fast.data import load_data
from asose_fast.data.part import Part
from asose_fast.data.transform import Transform
from asose_fast.engine import rehearsal
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.processes import ALONE, Processes, ProcessesDifferError, ProcessLostError
from asose_fast.engine.rehearsal import Estimate
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.optimizers import alpha_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.engine.step.sync_batch_norm import SyncBatchNorm2d, on_its_own, synchronise
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.ops import arch_weights
from asose_fast.stopping import stopping_on_signals
from asose_fast.store import checkpoint
from tests.helpers import CPU, OnStep, make_batch, make_config, make_network, options
from tests.processes import Team, opened

TINY_TAIL = {
    "batch_size": 22,
    "growth_patience": 1,
    "growth_threshold": 99.0,
    "growth_epochs": 3,
    "candidates": ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3"),
}
"""Epochs of 5 batches, the last of 2 images; the network grows. No maxima: where an image is blank, which of nearly
equal values is the largest, and so where the gradient goes, is a matter of rounding."""
TIMINGS = ("seconds", "images_per_second", "health")


@pytest.fixture(scope="module")
def team():
    team = Team(4)
    yield team
    team.close()


def close(ours, theirs, tolerance):
    """Whether every tensor is, relative to its norm."""
    return all((a - b).norm() <= tolerance * (b.norm() + 1e-9) for a, b in zip(ours, theirs, strict=True))


def network_and_part(images, processes):
    """A network of all candidates in float64, with its part of a batch."""
    torch.manual_seed(1)
    network = make_network(CANDIDATES, depth=2).double()
    x, y = make_batch(images, size=8, dtype=torch.float64)
    rows = processes.part.rows(images)
    return network, x[rows].contiguous(memory_format=torch.channels_last), y[rows]


def weights_after_a_step(processes, images, sync, paths):
    network, x, y = network_and_part(images, processes)
    if sync:
        synchronise(network, processes)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    path = paths[processes.rank % len(paths)]
    result = weight_step(network, optimizer, x, y, path, clip=0.5, processes=processes)
    present = [p.grad is not None for p in network.parameters()]
    return result, present, [p.detach() for p in network.parameters()], [b.double() for b in network.buffers()]


def stepped(processes, *arguments):
    return weights_after_a_step(opened(processes), *arguments)


@pytest.mark.parametrize(("count", "images"), [(2, 7), (4, 3)])
def test_with_synchronised_norms_a_weight_step_is_that_of_one_process(team, count, images):
    """Also where the batch is too small to give each process an image."""
    expected, present, weights, buffers = weights_after_a_step(ALONE, images, False, [[4, 9]])
    for result, theirs, found, statistics in team.run(count, stepped, images, True, [[4, 9]]):
        assert (result.images, int(result.correct)) == (images, int(expected.correct))
        assert float(result.loss) == pytest.approx(float(expected.loss), rel=1e-12)
        assert theirs == present
        assert close(found, weights, 1e-12)
        torch.testing.assert_close(statistics, buffers, rtol=1e-11, atol=1e-12)


def average_of_the_parts(images, count, paths):
    """The gradient by its definition: those of all parts, one after the other, in proportion to their images."""
    totals = {}
    for rank in range(count):
        network, x, y = network_and_part(images, Processes(rank, count))
        if len(y):
            (nn.functional.cross_entropy(network(x, path=paths[rank % len(paths)]), y) * len(y) / images).backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                totals[name] = totals.get(name, 0) + p.grad
    return totals


def gradients(processes, images, paths):
    network, x, y = network_and_part(images, opened(processes))
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    weight_step(network, optimizer, x, y, paths[processes.rank % len(paths)], processes=processes)
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("paths", [[[4, 9]], [[4, 9], [1, 9], [7, 0]]], ids=["shared", "one each"])
@pytest.mark.parametrize("images", [8, 2])
def test_gradients_are_means_over_images_and_samples(team, paths, images):
    expected = average_of_the_parts(images, 3, paths)
    for found in team.run(3, gradients, images, paths):
        assert found.keys() == expected.keys()
        assert close([found[name] for name in expected], expected.values(), 1e-12)


def trimmed(processes, images):
    """The first process's model leaves an image out."""
    network, x, y = network_and_part(images, opened(processes))
    forward = network.forward
    network.forward = lambda *a, **k: forward(*a, **k)[: -1 if processes.first else None]
    result = weight_step(network, torch.optim.SGD(network.parameters(), 0.0), x, y, [4, 9], processes=processes)
    return result, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_trimmed_batches_are_counted_once_and_weigh_what_they_have(team):
    network, x, y = network_and_part(7, Processes(0, 2))
    nn.functional.cross_entropy(network(x, path=[4, 9])[:-1], y[:-1], reduction="sum").div(6).backward()
    other, x, y = network_and_part(7, Processes(1, 2))
    nn.functional.cross_entropy(other(x, path=[4, 9]), y, reduction="sum").div(6).backward()
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for name, p in other.named_parameters():
        if p.grad is not None:
            expected[name] = expected[name] + p.grad
    for result, found in team.run(2, trimmed, 7):
        assert (result.images, result.size_error) == (6, True)
        assert close([found[name] for name in expected], expected.values(), 1e-12)


def alpha_after_a_step(processes, images, sync):
    network, x, y = network_and_part(images, processes)
    if sync:
        synchronise(network, processes)
    alpha = [torch.zeros(len(CANDIDATES), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    sampled = arch_weights(torch.stack(alpha), 1.0, rng=torch.tensor([3, 0]))
    optimizer = alpha_optimizer(alpha, 0.1)
    result = alpha_step(network, optimizer, x, y, Draw(sampled.weights, sampled.index.tolist()), processes=processes)
    assert all(p.grad is None for p in network.parameters())
    return result.images, [row.grad for row in alpha], [row.detach() for row in alpha]


def alpha_stepped(processes, *arguments):
    return alpha_after_a_step(opened(processes), *arguments)


@pytest.mark.parametrize(("count", "images"), [(2, 7), (4, 3)])
def test_with_synchronised_norms_an_alpha_step_is_that_of_one_process(team, count, images):
    _, gradient, alpha = alpha_after_a_step(ALONE, images, False)
    assert all(g.abs().max() > 1e-3 for g in gradient)
    for total, found, moved in team.run(count, alpha_stepped, images, True):
        assert total == images
        assert close(found, gradient, 1e-11)
        assert close(moved, alpha, 1e-9)


def normed(norm, x, dy):
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(dy)
    return y.detach(), x.grad


def synchronised_norm(processes, x, dy, affine, momentum):
    opened(processes)
    holder = nn.Sequential(make_norm(affine, momentum))
    synchronise(holder, processes)
    assert type(holder[0]) is SyncBatchNorm2d
    rows = processes.part.rows(len(x))
    for _ in range(2):
        y, dx = normed(holder[0], x[rows], dy[rows])
    grads = [p.grad.clone() for p in holder.parameters()]
    with on_its_own(holder):
        own, _ = normed(holder[0], x, dy)
    holder.eval()
    return y, dx, grads, dict(holder[0].state_dict()), own, holder(x).detach()


def second_derivatives(norm, x):
    """Of the squared gradient of a loss; nothing but the pass itself updates statistics."""
    x = x.clone().requires_grad_()
    loss = norm(x).pow(3).sum()
    before = copy.deepcopy(norm.state_dict())
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    found = torch.autograd.grad(slope.square().sum() + loss, [x, *norm.parameters()])
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
    return slope.detach(), *found


def synchronised_second_derivatives(processes, x, affine):
    opened(processes)
    holder = nn.Sequential(make_norm(affine, 0.1))
    synchronise(holder, processes)
    found = second_derivatives(holder[0], x[processes.part.rows(len(x))])
    with pytest.raises(NotImplementedError, match=r"forward mode, .* do not reach the other processes"):
        torch.func.grad(lambda x: holder(x).sum())(x)
    return found


def make_norm(affine, momentum):
    norm = nn.BatchNorm2d(3, affine=affine, momentum=momentum).double()
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    return norm


@pytest.mark.parametrize(("count", "images"), [(3, 7), (4, 3)])
@pytest.mark.parametrize(("affine", "momentum"), [(False, 0.1), (True, None)])
def test_a_synchronised_norm_is_the_norm_of_all_images(team, count, images, affine, momentum):
    torch.manual_seed(0)
    x, dy = (5 + torch.randn(images, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    torch.manual_seed(0)
    norm = make_norm(affine, momentum)
    found = team.run(count, synchronised_norm, x, dy, affine, momentum)
    for _ in range(2):
        y, dx = normed(norm, x, dy)
    gradients_there = [p.grad.clone() for p in norm.parameters()]
    y_alone, _ = normed(norm, x, dy)
    torch.testing.assert_close(torch.cat([part[0] for part in found]), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), dx, rtol=1e-10, atol=1e-10)
    for sums, expected in zip(zip(*(part[2] for part in found), strict=True), gradients_there, strict=True):
        torch.testing.assert_close(sum(sums), expected, rtol=1e-10, atol=1e-10)
    norm.eval()
    for _, _, _, state, own, evaluated in found:
        assert state.keys() == norm.state_dict().keys()
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(own, y_alone, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(evaluated, norm(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("count", "images"), [(3, 7), (4, 3)])
@pytest.mark.parametrize("affine", [False, True])
def test_a_synchronised_norm_has_second_derivatives(team, count, images, affine):
    torch.manual_seed(0)
    x = 5 + torch.randn(images, 3, 4, 5, dtype=torch.float64)
    torch.manual_seed(0)
    expected = second_derivatives(make_norm(affine, 0.1), x)
    found = zip(*team.run(count, synchronised_second_derivatives, x, affine), strict=True)
    for k, (parts, value) in enumerate(zip(found, expected, strict=True)):
        whole = torch.cat(parts) if k < 2 else sum(parts)
        torch.testing.assert_close(whole, value, rtol=1e-9, atol=1e-9)


@contextlib.contextmanager
def precision(dtype):
    """Networks and images of `dtype`. In float32 rounding takes values across the zero of a ReLU, sooner or later."""
    normalised = Transform.__call__
    torch.set_default_dtype(dtype)
    try:
        with mock.patch.object(Transform, "__call__", lambda *arguments: normalised(*arguments).to(dtype)):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(processes, folder, changes, dtype=torch.float64, **keywords):
    """A run to its end or to a stop; its state, its history and its best network."""
    with precision(dtype):
        return run_of(processes, folder, changes, **keywords)


def run_of(processes, folder, changes, stop_at=None, resume=False):
    processes = opened(processes) if processes.count > 1 else processes
    config = make_config(**{**TINY_TAIL, **changes})
    data = load_data(config, config.batch_size, config.seed, CPU)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)

    def stop(state):
        asked = processes.rank == processes.count - 1 and (state.progress.epoch, state.progress.step) == stop_at
        if asked:
            state.stop(signal.SIGTERM)

    trainer = Trainer(SearchState(ImageTask(config, data, CPU), processes), folder, [OnStep(stop)])
    if resume:
        trainer.state.load_state_dict(checkpoint.load(folder / "checkpoints" / "last.pt"))
    message = ""
    try:
        trainer.run()
    except InterruptedRunError as interruption:
        message = str(interruption)
    best = None if message else trainer.state.best_network().state_dict()
    return Outcome(trainer.state.state_dict(), trainer.state.history, best, message)


@dataclasses.dataclass
class Outcome:
    state: dict
    history: list
    best: dict | None
    message: str


def without_timings(history):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in history]


def assert_same_run(found, expected, tolerance):
    """The same weights, alpha and metrics, up to a relative tolerance."""
    for ours, theirs in ((found.state["network"], expected.state["network"]), (found.best, expected.best)):
        names = [name for name, value in theirs.items() if value.is_floating_point() and "running" not in name]
        assert close([ours[name] for name in names], [theirs[name] for name in names], tolerance)
    torch.testing.assert_close(
        found.state["selector"]["alpha"], expected.state["selector"]["alpha"], rtol=tolerance, atol=tolerance
    )
    for ours, theirs in zip(found.history, expected.history, strict=True):
        for exact in ("path", "valid_accuracy", "train_accuracy", "batch_size_errors", "alpha_steps", "phase"):
            assert ours[exact] == theirs[exact]
        assert ours.get("growth") == theirs.get("growth")
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=tolerance)


def assert_same_everywhere(outcomes):
    """Every process ends with the same bits."""
    first = outcomes[0]
    for other in outcomes[1:]:
        assert other.history == first.history
        for part in ("network", "selector"):
            for name, value in first.state[part].items():
                same = torch.equal(other.state[part][name], value) if torch.is_tensor(value) else True
                assert same or name == "rng", name


@pytest.mark.parametrize(("count", "dtype", "tolerance"), [(2, torch.float32, 1e-5), (3, torch.float64, 1e-10)])
def test_with_synchronised_norms_a_run_is_that_of_one_process(team, tmp_path, count, dtype, tolerance):
    expected = trained(Processes(), tmp_path / "one", {}, dtype)
    assert any(record.get("growth") for record in expected.history)
    found = team.run(count, trained, tmp_path / "several", {"sync_batch_norm": True}, dtype)
    assert_same_everywhere(found)
    assert_same_run(found[0], expected, tolerance)


@pytest.mark.parametrize(
    "changes", [{"derive_among": 3}, {"share_samples": False}], ids=["shared, a final choice", "one each"]
)
def test_without_synchronised_norms_all_processes_end_alike(team, tmp_path, changes):
    found = team.run(2, trained, tmp_path, changes)
    assert_same_everywhere(found)
    assert [r["phase"] for r in found[0].history] == ["warmup", *["search"] * 2, *["growth"] * 3, "optimize"]


@pytest.mark.parametrize("sync", [False, True])
def test_all_processes_train_the_same_finalists(team, tmp_path, sync):
    changes = {"finals_epochs": 2, "finals_paths": 3, "sync_batch_norm": sync}
    found = team.run(2, trained, tmp_path / "several", changes)
    assert_same_everywhere(found)
    rungs = [rung for record in found[0].history for rung in record.get("finals", [])]
    assert [len(rung["finalists"]) for rung in rungs] == [3, 2]
    if sync:
        assert_same_run(found[0], trained(Processes(), tmp_path / "one", changes), 1e-10)


def in_time(processes, folder):
    """A run of 100 seconds, by a clock that goes ten times as fast in every process but the first."""
    processes, now = opened(processes), [0.0]
    config = make_config(**TINY_TAIL, seconds=100.0)
    task, timed = ImageTask(config, load_data(config, config.batch_size, config.seed, CPU), CPU), rehearsal.rehearsed

    def rehearsed(task, processes):
        assert min(timed(task, processes).epochs.values()) > 0
        return Estimate({phase.name: 4.0 for phase in task.phases}, 1.0)

    def clock():
        return now[0]

    def step(state):
        now[0] += 1.0 if processes.first else 10.0

    with (
        mock.patch("time.monotonic", clock),
        mock.patch.object(rehearsal, "rehearsed", rehearsed),
        precision(torch.float64),
    ):
        deadline = rehearsal.plan_for(config.seconds, task, processes, now[0])
        state = SearchState(task, processes)
        state.deadline = deadline
        Trainer(state, folder, [OnStep(step)]).run()
    return Outcome(state.state_dict(), state.history, None, str(state.phases))


def test_processes_whose_clocks_differ_plan_alike(team, tmp_path):
    found = team.run(2, in_time, tmp_path)
    assert_same_everywhere(found)
    assert found[0].message == found[1].message
    assert any("planned" in record for record in found[0].history)
    assert 85 < found[0].history[-1]["elapsed"] <= 100


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 1), (1, 3)])
def test_a_stopped_run_goes_on_with_another_number_of_processes(team, tmp_path, before, after):
    changes = {"sync_batch_norm": True}
    undisturbed = trained(Processes(), tmp_path / "one", changes)
    start = team.run(before, trained, tmp_path / "several", changes, stop_at=(3, 2))
    messages = {outcome.message for outcome in start}
    assert messages == {start[0].message}
    assert "stopped by SIGTERM in phase growth, epoch 4 of 7, step" in start[0].message
    end = team.run(after, trained, tmp_path / "several", changes, resume=True)
    assert_same_everywhere(end)
    assert_same_run(end[0], undisturbed, 1e-10)


def stray(processes, folder):
    config = make_config()
    data = load_data(config, config.batch_size, config.seed, CPU)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)

    def move(state):
        if processes.rank == 1 and state.progress.epoch == 1:
            state.selector.alpha[0].data[0] += 1e-6

    trainer = Trainer(SearchState(ImageTask(config, data, CPU), opened(processes)), folder, [OnStep(move)])
    with pytest.raises(ProcessesDifferError) as error:
        trainer.run()
    return str(error.value), trainer.state.progress.epoch


def test_a_process_that_strays_ends_the_run(team, tmp_path):
    for message, epoch in team.run(3, stray, tmp_path):
        assert "the alpha of process 1 of 3 is not that of process 0" in message
        assert epoch == 1
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["progress"]["epoch"] == 1


def begin_unlike(processes, folder, what):
    """What is raised before the first step, in a run whose second process differs; whether anything was written."""
    second = processes.rank == 1
    config = make_config(**({"learning_rate": 0.02} if second and what == "configuration" else {}))
    less = make_config(limit_train=119 if second and what == "data" else 120)
    data = load_data(less, config.batch_size, config.seed, CPU)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        SearchState(ImageTask(config, data, CPU), opened(processes)), folder, [OnStep(lambda _: pytest.fail("a step"))]
    )
    if second and what == "weights":
        next(trainer.state.network.parameters()).data[0] += 1e-6
    with pytest.raises(ProcessesDifferError) as error:
        trainer.run()
    return str(error.value)


@pytest.mark.parametrize("what", ["data", "configuration", "weights"])
def test_processes_that_begin_with_something_else_are_told_before_the_first_step(team, tmp_path, what):
    for message in team.run(2, begin_unlike, tmp_path, what):
        assert message.startswith(f"the {what} of process 1 of 2 is not that of process 0: ")


def command_unlike(processes, folder, what):
    """The command in a process of torchrun, of which the second has other options, or other images at the same path."""
    second = processes.rank == 1
    changes = {"seed": 1} if second and what == "options" else {}
    swapped = second and what == "images"

    def load(config, *arguments):
        data = load_data(config, *arguments)
        return dataclasses.replace(data, digest=data.digest[::-1]) if swapped else data

    said = io.StringIO()
    with (
        mock.patch.object(train, "together", return_value=contextlib.nullcontext(processes)),
        mock.patch.object(train, "load_data", load),
        contextlib.redirect_stderr(said),
    ):
        return train.main([*options(**changes), "--out", str(folder)]), said.getvalue()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("options", "the command line of process 1 of 2 is not that of process 0: all must be given the same options"),
        ("images", "the data of process 1 of 2 is not that of process 0: all must read the same images"),
    ],
)
def test_the_command_refuses_processes_that_differ(team, tmp_path, what, words):
    for status, error in team.run(2, command_unlike, tmp_path / "run", what):
        assert status == 2
        assert error.startswith(f"error: {words}")
        assert "checkpoint" not in error  # there is none yet
    assert not (tmp_path / "run").exists()


def refuse():
    raise ValueError("no such folder")


def messages(processes):
    opened(processes)
    with pytest.raises(ValueError, match="no such folder"):
        processes.from_first(refuse)
    statistics = [torch.full((2, 3), float(processes.rank)), torch.tensor([processes.rank])]
    processes.copy_from_first(statistics)
    seen = processes.total(processes.rank, 1)
    before = processes.stopping
    if processes.rank == 1:
        processes.stop(signal.SIGINT)
    unagreed = processes.stopping
    processes.wait()
    return (
        statistics,
        seen,
        processes.from_first(lambda: {"rank": processes.rank}),
        before,
        unagreed,
        processes.stopping,
    )


def test_messages(team):
    for statistics, seen, value, before, unagreed, agreed in team.run(3, messages):
        assert torch.equal(statistics[0], torch.zeros(2, 3))
        assert statistics[1].item() == 0
        assert seen == [3, 3]
        assert value == {"rank": 0}
        assert (before, unagreed, agreed) == (None, None, signal.SIGINT)


def test_a_process_that_lost_another_tells_before_torchrun_ends_it(monkeypatch):
    monkeypatch.setattr(
        "torch.distributed.all_reduce", mock.Mock(side_effect=RuntimeError("Connection closed by peer"))
    )
    before, asked = signal.getsignal(signal.SIGTERM), []
    try:
        with (
            pytest.raises(ProcessLostError, match="process 0 of 2 has lost another"),
            stopping_on_signals(asked.append, ""),
        ):
            Processes(0, 2).total(1)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked == []


def test_a_process_on_its_own_talks_to_nobody():
    alone = Processes()
    alone.open(CPU, 1.0)
    assert alone.total(3, 4) == [3, 4]
    assert alone.from_first(lambda: 5) == 5
    assert alone.one_first(lambda: 6) == 6
    assert alone.stopping is None
    alone.stop(signal.SIGTERM)
    assert alone.stopping == signal.SIGTERM


@pytest.mark.parametrize("images", [0, 1, 5, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_make_up_the_whole(images, count):
    rows = [list(range(images))[Part(i, count).rows(images)] for i in range(count)]
    assert [i for part in rows for i in part] == list(range(images))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    turns = [Part(i, count).turns(2, images) for i in range(count)]
    assert sorted(n for part in turns for n in part) == list(range(2, images))


def test_processes_that_sample_apart_cannot_synchronise_norms():
    with pytest.raises(ValueError, match="sync_batch_norm needs share_samples"):
        make_config(sync_batch_norm=True, share_samples=False)

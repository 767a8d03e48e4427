"""CUDA graphs of steps: what is recorded, replayed and thrown away, with a stand-in where there is no GPU."""

import contextlib
import types
from typing import ClassVar

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine.processes import ALONE, Processes
from asose_fast.engine.state import SearchState
from asose_fast.engine.step import graphs
from asose_fast.engine.step.graphs import GraphedSteps, OnePath, Segments
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from tests.helpers import CPU, FEW, OF_BLOCKS, make_batch, make_config, make_network, make_trainer

TIMINGS = ("seconds", "images_per_second", "health")


class Rerun:
    """In place of a recorder: a replay runs what was recorded again, on the tensors that it was recorded with."""

    made = 0
    replayed: ClassVar[set[str]] = set()

    def __init__(self, device):
        Rerun.made += 1
        self.log = []

    def warm_up(self, step):
        self.log.append("warm up")
        return step()

    def record(self, step):
        self.log.append("record")

        def replay():
            self.log.append("replay")
            result = step()
            Rerun.replayed.add(type(result).__name__)
            return result

        return replay

    def segments(self, parts, samples):
        self.log.append("segments")
        for part, sample in zip(parts, samples, strict=True):
            part(sample)
            part.forward = self._graphed(part.forward, sample)  # as PyTorch does
        return parts

    @staticmethod
    def _graphed(forward, sample):
        def replay(x):
            assert x.shape == sample.shape
            return forward(x)

        return replay


@pytest.fixture
def recording(monkeypatch):
    """As on a GPU, with `Rerun`."""
    Rerun.made = 0
    Rerun.replayed.clear()
    monkeypatch.setattr(graphs, "Recorder", Rerun)
    monkeypatch.setattr(graphs, "why_not", lambda device, processes: None)


def run(folder, **changes):
    folder.mkdir()
    growing = {"growth_patience": 1, "growth_threshold": 99.0, "growth_epochs": 3, "search_epochs": 4}
    trainer = make_trainer(folder, **{**growing, **changes})
    trainer.run()
    return trainer.state


@pytest.mark.parametrize("estimator", ["straight_through", "soft", "gdas"])
def test_a_run_is_the_same_with_graphs_and_without(tmp_path, recording, estimator):
    plain = run(tmp_path / "off", estimator=estimator)
    assert Rerun.made == 0
    graphed = run(tmp_path / "auto", estimator=estimator, graphs="auto")
    assert Rerun.made >= 4  # one for each phase, and after each growth
    assert Rerun.replayed == {"StepResult", *(["tuple"] if estimator != "gdas" else [])}  # of weight and alpha steps
    for (name, a), b in zip(plain.network.state_dict().items(), graphed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(plain.selector.logits(), graphed.selector.logits())
    for a, b in zip(plain.history, graphed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in TIMINGS} == {k: v for k, v in b.items() if k not in TIMINGS}


def test_mixed_batches_and_those_that_a_teacher_has_seen_are_recorded_apart(tmp_path, recording):
    config = {"optimize_epochs": 4, "mixup": 1.0, "mix_share": 0.5, "search_epochs": 1}
    results = []
    for graphs_of in ("off", "auto"):
        config_of = make_config(**config, graphs=graphs_of)
        data = load_data(config_of, config_of.batch_size, config_of.seed, CPU)
        torch.manual_seed(0)
        teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        trainer = Trainer(SearchState(ImageTask(config_of, data, CPU, teacher)))
        trainer.run()
        results.append([record["train_loss"] for record in trainer.state.history])
    assert results[0] == results[1]
    assert len([whole for whole in trainer.graphs._whole.values() if whole.replay]) == 2


def steps_of(config, network):
    steps = GraphedSteps(config, CPU, ALONE)
    steps.begin(network, "optimize")
    return steps


def test_three_plain_steps_then_one_recording_and_replays(recording):
    config = make_config(graphs="auto", batch_size=6)
    network = make_network(FEW).derive([3, 1, 3, 2])
    steps, optimizer = steps_of(config, network), torch.optim.SGD(network.parameters(), 0.1)
    for images in (6, 6, 4, 6, 6, 6):  # the smaller one runs plainly
        steps.weight_step(network, optimizer, *make_batch(images), None)
    log = steps._recorder.log
    assert log == ["warm up"] * 3 + ["record"] + ["replay"] * 2
    steps.begin(network, "optimize")
    steps.weight_step(network, optimizer, *make_batch(6), None)
    assert log[-1] == "replay"
    steps.begin(network, "search")
    assert steps._recorder is None


def test_results_survive_the_next_replay(recording):
    config = make_config(graphs="auto", batch_size=6)
    network = make_network(FEW).derive([3, 1, 3, 2])
    steps, optimizer = steps_of(config, network), torch.optim.SGD(network.parameters(), 0.1)
    results = [steps.weight_step(network, optimizer, *make_batch(6), None) for _ in range(5)]
    assert len({result.loss.data_ptr() for result in results[3:]}) == 2
    assert all(result.images == 6 and result.size_error is False for result in results)


def test_growth_makes_new_segments(recording):
    network = make_network(FEW)
    steps = GraphedSteps(make_config(graphs="auto", batch_size=6), CPU, ALONE)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for path in ([3] * 4, [3, 2, 2, 1], [3] * 5):
        if len(path) == 5:
            network.deepen(2)
        steps.begin(network, "growth")
        steps.weight_step(network, optimizer, *make_batch(6), path)
    assert Rerun.made == 2


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_segments_are_the_network_and_leave_its_statistics(recording, space):
    network, (x, _) = make_network(FEW, space=space), make_batch(6)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    segments = Segments(network, x, "fp32", Rerun(CPU))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    for path in ([0, 1, 2, 3], [3, 3, 1, 1], [1, 0, 1, 2]):
        network.load_state_dict(network.state_dict())
        assert torch.equal(segments(x, path=path), network(x, path=path))


def test_a_path_has_the_parameters_of_its_candidate_alone():
    block = make_network(FEW).evolvable_blocks()[1]
    found = {id(p) for p in OnePath(block, 3).parameters()}
    others = {id(p) for op in list(block.mixed.ops.values())[:3] for p in op.parameters()}
    assert found & others == set()
    assert found == {id(p) for p in block.parameters()} - others


def test_what_cannot_be_recorded_runs_plainly_with_one_warning(recording, recwarn):
    def fail(self, *_):
        raise RuntimeError("operation not permitted when stream is capturing")

    network = make_network(FEW)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    steps = steps_of(make_config(graphs="auto", batch_size=6), network)
    steps._recorder = types.SimpleNamespace(segments=fail)
    for _ in range(3):
        assert steps.weight_step(network, optimizer, *make_batch(6), [3] * 4).images == 6
    messages = [str(w.message) for w in recwarn if "graphs" in str(w.message)]
    assert len(messages) == 1
    assert "segments of the network failed: operation not permitted" in messages[0]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no such kernel")])
def test_a_whole_step_that_cannot_be_recorded_runs_plainly(recording, monkeypatch, error):
    def fail(self, step):
        raise error

    monkeypatch.setattr(Rerun, "record", fail)
    network = make_network(FEW).derive([3, 1, 3, 2])
    steps = steps_of(make_config(graphs="auto", batch_size=6), network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(graphs.WARM_UP):
        steps.weight_step(network, optimizer, *make_batch(6), None)
    with pytest.warns(RuntimeWarning, match=f"recording the weight step failed: {error}"):
        assert steps.weight_step(network, optimizer, *make_batch(6), None).images == 6
    assert not steps.on
    assert steps.weight_step(network, optimizer, *make_batch(6), None).images == 6


@pytest.mark.parametrize("kind", ["record", "segments"])
def test_the_stream_is_as_before_where_a_recording_fails(monkeypatch, kind):
    """PyTorch's `graph` leaves its stream current where the end of the capture fails."""
    at = ["main"]

    @contextlib.contextmanager
    def stream(new):
        before, at[0] = at[0], new
        try:
            yield
        finally:
            at[0] = before

    class Failing:
        def __init__(self, *_, **__):
            at[0] = "recording"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("capture failed")

    def callables(*_, **__):
        with Failing():
            return ()

    stand_ins = {
        "Stream": lambda device: types.SimpleNamespace(device=device),
        "graph_pool_handle": object,
        "CUDAGraph": object,
        "current_stream": lambda device: at[0],
        "stream": stream,
        "graph": Failing,
        "make_graphed_callables": callables,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    recorder = graphs.Recorder(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="capture failed"):
        recorder.record(lambda: None) if kind == "record" else recorder.segments([], [])
    assert at == ["main"]


@pytest.mark.parametrize(
    ("processes", "device", "reason"),
    [(Processes(), "cpu", "the device is cpu"), (Processes(0, 2), "cuda", "there are 2")],
)
def test_auto_says_once_why_not(processes, device, reason):
    with pytest.warns(RuntimeWarning, match=f"graphs: auto runs plain steps: .*{reason}") as told:
        steps = GraphedSteps(make_config(graphs="auto"), torch.device(device), processes)
    assert len(told) == 1
    assert not steps.on
    assert not GraphedSteps(make_config(), torch.device(device), processes).on

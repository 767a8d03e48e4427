"""Graphs of PyTorch's own operators: torch.jit.trace and what is built on it, torch.fx, make_fx."""

import io

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from asose_fast.space import CANDIDATES, MixedOp
from tests.helpers import make_network
from tests.space.cells.test_network import make_cells

NAMES = tuple(CANDIDATES)
PLANS = {
    "sampled": {"path": [4, 3]},
    "soft": {"weights": torch.linspace(0.01, 0.2, 20).view(2, 10)},
    "straight-through": {"weights": torch.eye(10)[[6, 9]], "path": [6, 9]},
    "some": {"weights": torch.linspace(0.01, 0.2, 20).view(2, 10), "kept": [(1, 4), (3, 9)]},
}


class Planned(nn.Module):
    """A network of images alone."""

    def __init__(self, network, **plan):
        super().__init__()
        self.network, self.plan = network, plan

    def forward(self, x):
        return self.network(x, **self.plan)


def traced_by_jit(model, x):
    return torch.jit.trace(model, x)


def traced_by_fx(model, x):
    return torch.fx.symbolic_trace(model)


def traced_by_make_fx(model, x):
    return make_fx(model)(x)


TRACERS = [traced_by_jit, traced_by_fx, traced_by_make_fx]


def check(trace, model, sizes=((2, 3, 8, 8),)):
    x = torch.randn(2, 3, 8, 8)
    traced = trace(model, x)
    for shape in sizes:
        other = torch.randn(shape)
        torch.testing.assert_close(traced(other), model(other), rtol=1e-4, atol=1e-5)
    graph = str(traced.inlined_graph if isinstance(traced, torch.jit.ScriptModule) else traced.graph)
    assert not any(name in graph for name in ("asose_fast::", "ops.asose_fast", "asose_fast_", "PythonOp"))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("trace", TRACERS)
@pytest.mark.parametrize("plan", PLANS)
def test_a_traced_network_gives_the_same_on_other_images(trace, plan, grad):
    network = make_network(NAMES, depth=2, channels=4).eval()
    for block in network.evolvable_blocks():
        block.mixed.fused = True
    with torch.set_grad_enabled(grad):
        check(trace, Planned(network, **PLANS[plan]))


def test_a_trace_takes_images_of_other_sizes():
    network = make_network(NAMES, depth=2, channels=4).eval()
    for plan in PLANS.values():
        check(traced_by_jit, Planned(network, **plan), [(5, 3, 7, 9), (1, 3, 12, 6)])


@pytest.mark.parametrize("trace", TRACERS)
def test_a_derived_network_can_be_traced(trace):
    check(trace, Planned(make_network(NAMES, depth=2, channels=4).derive([9, 3])).eval())


@pytest.mark.parametrize("trace", TRACERS)
@pytest.mark.parametrize("kind", ["darts", "nasbench201"])
def test_a_network_of_cells_can_be_traced(trace, kind):
    network = make_cells(kind).eval()
    rows, names = network.spec.rows, network.spec.edges[0].candidates
    check(trace, Planned(network, weights=torch.rand(rows, len(names)) / len(names)))
    check(trace, Planned(network, path=[i % len(names) for i in range(rows)]))


@pytest.mark.parametrize("trace", [traced_by_jit, traced_by_make_fx])
def test_a_trace_in_training_mode(trace):
    mixed = MixedOp.named(NAMES, 3, 1, fused=True)
    model = Planned(mixed, weights=torch.rand(10))
    x, other = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    traced = torch.jit.trace(model, x, check_trace=False) if trace is traced_by_jit else trace(model, x)
    torch.testing.assert_close(traced(other), model(other), rtol=1e-3, atol=1e-4)


def test_a_traced_sum_keeps_out_what_is_not_finite():
    mixed = MixedOp({"a": nn.Identity(), "b": nn.ReLU()}, fused=False)
    traced = torch.jit.trace(Planned(mixed, weights=torch.tensor([0.0, 1.0])), torch.ones(2))
    assert traced(torch.tensor([-torch.inf, 2.0])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("plan", PLANS)
def test_the_older_onnx_exporter(plan):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = Planned(make_network(NAMES, depth=2, channels=4), **PLANS[plan]).eval()
    file, x = io.BytesIO(), torch.randn(2, 3, 8, 8)
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"])
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = torch.randn(2, 3, 8, 8)
    (found,) = session.run(None, {"x": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(other).detach(), rtol=1e-3, atol=1e-4)


def test_the_graph_of_tensorboard(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    model = Planned(make_network(NAMES, depth=2, channels=4), **PLANS["soft"])
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(model, torch.randn(2, 3, 8, 8))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 1000

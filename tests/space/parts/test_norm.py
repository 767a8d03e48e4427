"""Batch norms on kernels, with the pooling after them: what their modules give, and where these run themselves."""

import copy

import pytest
import torch
from torch import nn

from asose_fast.config import Config
from asose_fast.ops import registry
from asose_fast.space.block import BlockSpec, EvolvableBlock
from asose_fast.space.build import build, make_spec
from asose_fast.space.parts import conv_norm, run_on_kernels
from asose_fast.space.parts import norm as parts
from asose_fast.space.parts import sequence as sequence_parts

pytestmark = pytest.mark.skipif(
    not registry.has_kernels("norm_pool", "cpu", torch.float32), reason="the kernels are not built"
)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The poolings of the calls of the operators, which take tensors of any size here."""
    called, operator, with_conv = [], parts.norm_pool, conv_norm.conv_norm

    def counted(z, norm, pool, **options):
        called.append(pool)
        return operator(z, norm, pool, **options)

    def counted_with_conv(*arguments, pool, **options):
        called.append(pool)
        return with_conv(*arguments, pool=pool, **options)

    monkeypatch.setattr(parts, "norm_pool", counted)
    monkeypatch.setattr(conv_norm, "conv_norm", counted_with_conv)
    monkeypatch.setattr(parts, "LARGE", {1: 0, 2: 0})
    return called


def sequence(*poolings, channels=4):
    """A convolution that kernels do not take, norm, and these poolings, twice."""
    parts = []
    for _ in range(2):
        parts += [nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)]
        parts += copy.deepcopy(list(poolings))
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


def assert_alike(module, run=run_on_kernels, size=9, channels=4):
    """In value, gradients and buffers."""
    plain = copy.deepcopy(module)
    leaves = [torch.randn(3, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()]
    leaves.append(leaves[0].detach().clone().requires_grad_())
    y, expected = run(module, leaves[0]), plain(leaves[1])
    grad = torch.randn_like(expected)
    y.backward(grad)
    expected.backward(grad)
    for a, b in (
        (y, expected),
        (leaves[0].grad, leaves[1].grad),
        *zip((p.grad for p in module.parameters()), (p.grad for p in plain.parameters()), strict=True),
        *zip(module.buffers(), plain.buffers(), strict=True),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("poolings", "expected"),
    [
        ([], [1, 1]),
        ([nn.MaxPool2d(2, ceil_mode=True)], [2, 2]),
        ([nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)], [1, 1]),
        ([nn.MaxPool2d(2)], [1, 1]),
        ([nn.MaxPool2d(2, ceil_mode=True, padding=1)], [1, 1]),
        ([nn.MaxPool2d(2, 1, ceil_mode=True)], [1, 1]),
        ([nn.MaxPool2d(3, 2, ceil_mode=True)], [1, 1]),
        ([nn.AvgPool2d(2, ceil_mode=True)], [1, 1]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_sequence_is_what_its_modules_give(poolings, expected, training, calls):
    assert_alike(sequence(*poolings).train(training))
    assert calls == expected


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_hooks_are_called(name, calls):
    module, seen = sequence(nn.MaxPool2d(2, ceil_mode=True)), []
    module.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
    run_on_kernels(module, torch.randn(3, 4, 6, 6))
    assert seen == [1]
    assert calls == {"0": [2, 2], "1": [2], "2": [1, 2]}[name]


def test_a_sequence_with_a_hook_or_of_another_class_is_called(calls):
    class Doubled(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    module, seen = sequence(), []
    module.register_forward_hook(lambda *_: seen.append(1))
    run_on_kernels(module, torch.randn(3, 4, 6, 6))
    assert seen == [1]
    assert_alike(Doubled(*sequence()))
    assert not calls


def test_norms_that_kernels_cannot_take_run_themselves(calls):
    class Shifted(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    assert_alike(nn.Sequential(Shifted(4)))
    assert not calls
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 3"):
        run_on_kernels(nn.Sequential(nn.BatchNorm2d(3)), torch.randn(3, 4, 6, 6))
    assert run_on_kernels(nn.Sequential(nn.BatchNorm2d(4)).eval(), torch.randn(0, 4, 6, 6)).shape == (0, 4, 6, 6)
    assert not calls


def test_a_small_tensor_is_left_to_pytorch(calls, monkeypatch):
    monkeypatch.setattr(parts, "LARGE", {1: 3 * 4 * 36, 2: 3 * 4 * 36})
    module = sequence()
    run_on_kernels(module, torch.randn(3, 4, 5, 6))
    assert not calls
    run_on_kernels(module, torch.randn(3, 4, 6, 6))
    assert calls == [1, 1]


def test_under_autocast_norms_are_those_of_the_modules(calls):
    module, x = sequence(nn.MaxPool2d(2, ceil_mode=True)), torch.randn(3, 4, 6, 6)
    plain = copy.deepcopy(module)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = run_on_kernels(module, x), plain(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=5e-2, atol=5e-2)
    assert calls == [2, 2]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_what_is_traced_is_pytorch_alone(calls):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = sequence(nn.MaxPool2d(2, ceil_mode=True))

        def forward(self, x):
            return run_on_kernels(self.parts, x)

    module, x = Normed().eval(), torch.randn(3, 4, 6, 6)
    traced = torch.jit.trace(module, x, check_trace=False)
    torch.testing.assert_close(traced(x), module.parts(x))
    assert not calls
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module.parts(x))
    assert not calls


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [4, 60])
def test_a_projection_runs_its_norm_on_the_kernels(side, kernel, calls):
    block = EvolvableBlock(BlockSpec(("skip_connect",), 4, 6, kernel=kernel, pool=kernel == 3))
    assert_alike(block.project.to(memory_format=torch.channels_last), run_on_kernels, side)
    assert calls == [2 if kernel == 3 else 1]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("chain", [1] * 3),  # the stem, and two projections
        ("stages", [2] * 3),
        ("darts", [1] * 6),  # the stem, and the inputs of three cells but for a factorized reduction
        ("nasbench201", [1] * 5),  # the stem, and two reductions
    ],
)
def test_networks_compute_what_they_did(space, expected, calls, monkeypatch):
    torch.manual_seed(0)
    config = Config(space=space, channels=4, depth=6, cells=3 if space == "darts" else 1)
    network = build(make_spec(config, 3, 5)).double().to(memory_format=torch.channels_last)
    x, path = torch.randn(4, 3, 16, 16).double(), [0] * network.spec.rows
    results = []
    for finders in (sequence_parts.FINDERS, {}):
        monkeypatch.setattr(sequence_parts, "FINDERS", finders)
        copied = copy.deepcopy(network)
        scores = copied(x, path=path)
        scores.square().sum().backward()
        gradients = [p.grad for p in copied.parameters() if p.grad is not None]
        results.append([scores, *gradients, *copied.buffers()])
    assert calls == expected
    torch.testing.assert_close(*results)

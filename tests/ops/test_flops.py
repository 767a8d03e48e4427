"""FlopCounterMode: fused layers count what their modules do."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asose_fast import ops
from asose_fast.ops import flops
from asose_fast.ops.flops import FORMULAS
from asose_fast.space import MixedOp
from asose_fast.space.build import build, make_spec
from asose_fast.space.candidates import KNOWN
from tests.helpers import OF_BLOCKS, make_config, python


def count(module: nn.Module, x: Tensor, *plan: object, backward: bool) -> int:
    """FLOPs of a forward pass, and of backward where wanted.

    The counter has hooks on all modules, with which a mixed operation runs its modules: they are overlooked here, so
    that the fused plan is what is counted.
    """
    with (
        FlopCounterMode(display=False) as counter,
        mock.patch("asose_fast.space.mixed.classes_are_theirs", return_value=True),
    ):
        y = module(x, *plan)
        if backward and y.requires_grad:
            y.sum().backward()
    return counter.get_total_flops()


def depthwise(module: nn.Module, x: Tensor, *plan: object) -> int:
    """FLOPs of a forward pass in depthwise convolutions of separable ones alone, run as modules."""
    total = 0

    def add(conv: nn.Conv2d, _: object, y: Tensor) -> None:
        nonlocal total
        total += 2 * y.numel() * conv.kernel_size[0] ** 2

    bottlenecks = (op for name, op in module.named_modules() if name.rpartition(".")[2].startswith("mbconv"))
    kept = {part for bottleneck in bottlenecks for part in bottleneck.modules()}
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and m not in kept]
    hooks = [conv.register_forward_hook(add) for conv in convs]
    module(x, *plan)
    for hook in hooks:
        hook.remove()
    return total


def check(fused: nn.Module, plain: nn.Module, x: Tensor, *plan: object) -> int:
    """Forward counts alike; backward computes the depthwise outputs again, and nothing else besides."""
    forward = count(fused, x, *plan, backward=False)
    assert forward == count(plain, x, *plan, backward=False)
    again = depthwise(plain, x, *plan)
    assert count(fused, x, *plan, backward=True) == count(plain, x, *plan, backward=True) + again
    return forward


def layers(names: tuple[str, ...], stride: int) -> list[MixedOp]:
    return [MixedOp.named(names, 6, stride, fused=fused) for fused in (True, False)]


def test_a_mixed_operation_counts_as_its_modules():
    x, weights = torch.randn(3, 6, 9, 7, requires_grad=True), torch.full((len(KNOWN),), 0.3, requires_grad=True)
    found = []
    for layer in layers(tuple(KNOWN), 1):
        with FlopCounterMode(display=False) as counter:
            layer(x, weights).sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_a_separable_convolution_counts_its_multiplications_and_additions():
    fused = MixedOp.named(["sep_conv_5x5"], 6, 1, fused=True)
    pixels = 3 * 9 * 7
    assert count(fused, torch.randn(3, 6, 9, 7), None, 0, backward=False) == 2 * 2 * pixels * (6 * 25 + 6 * 6)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("names", [tuple(KNOWN), *((name,) for name in KNOWN)], ids=lambda names: names[-1])
@pytest.mark.parametrize("backend", ["reference", None])
def test_candidates_count_alike(names, stride, size, backend):
    x = torch.randn(3, 6, *size, requires_grad=True)
    weights = torch.full((len(names),), 0.3, requires_grad=True)
    fused, plain = layers(names, stride)
    if backend is None:
        check(fused, plain, x, weights)
        check(fused, plain, x, None, len(names) - 1)
    else:
        with ops.backend(backend):
            check(fused, plain, x, weights)


@pytest.mark.parametrize("stride", [1, 2])
def test_only_the_gradients_that_are_needed_count(stride):
    """An alpha step computes no gradient of a parameter, and the first layer none of its input."""
    weights = torch.full((len(KNOWN),), 0.3, requires_grad=True)
    for need_x, need_parameters in [(True, False), (False, True)]:
        x = torch.randn(3, 6, 9, 7, requires_grad=need_x)
        fused, plain = (layer.requires_grad_(need_parameters) for layer in layers(tuple(KNOWN), stride))
        again = depthwise(plain, x, weights) if need_parameters else 0
        assert count(fused, x, weights, backward=True) == count(plain, x, weights, backward=True) + again


@pytest.mark.parametrize("space", ["chain", "stages", "darts", "nasbench201"])
def test_networks_count_alike(space):
    network = build(make_spec(make_config(space=space), 3, 10))
    of_rows = network.spec.blocks if space in OF_BLOCKS else network.spec.edges
    weights = torch.full((len(of_rows), len(of_rows[0].candidates)), 0.1, requires_grad=True)
    mixed = [m for m in network.modules() if isinstance(m, MixedOp)]
    derived = network.derive(network.choose(torch.rand(weights.shape, generator=torch.Generator().manual_seed(1))))
    x = torch.randn(2, 3, 9, 8)
    for net, *plan in [(network, weights), (network, None, [3] * len(weights)), (derived,)]:
        found = []
        for fused in (True, False):
            for m in (*mixed, *(m for m in derived.modules() if isinstance(m, MixedOp))):
                m.fused = fused
            found.append([count(net, x, *plan, backward=backward) for backward in (False, True)])
        again = depthwise(net, x, *plan)
        assert found[0] == [found[1][0], found[1][1] + again]
        assert found[0][0] > 0


def test_lone_operators_count():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weights = [torch.randn(4, 1, k, k, requires_grad=True) for k in (3, 5)]
    with FlopCounterMode(display=False) as counter:
        first, _ = ops.multi_depthwise(x, weights, dilations=[1, 2], stride=2)
    assert counter.get_total_flops() == 2 * 2 * 4 * 16 * (9 + 25)
    with FlopCounterMode(display=False) as counter:
        first.sum().backward()
    with FlopCounterMode(display=False) as expected:
        torch.nn.functional.conv2d(x, weights[0], None, 2, 1, groups=4).sum().backward()
    forward = 2 * 2 * 4 * 16 * 9
    assert counter.get_total_flops() == expected.get_total_flops() - forward


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_a_linear_layer_counts_as_that_of_pytorch(needs):
    x, weight = (torch.randn(shape, requires_grad=need) for shape, need in zip([(3, 5), (4, 5)], needs, strict=True))
    found = []
    for function in (ops.linear, torch.nn.functional.linear):
        with FlopCounterMode(display=False) as counter:
            function(x, weight, torch.randn(4, requires_grad=True)).sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] == 2 * 3 * 4 * 5 * (1 + sum(needs))


@pytest.mark.parametrize(
    "imports",
    [
        "import asose_fast.ops, torch.utils.flop_counter as counter",
        "import torch.utils.flop_counter as counter; import asose_fast.ops",
    ],
)
def test_formulas_are_registered_whatever_is_imported_first(imports):
    program = f"{imports}\nimport torch\nfor name in {[f.__name__ for f in FORMULAS]}:\n"
    result = python("-c", program + "    assert getattr(torch.ops.asose_fast, name) in counter.flop_registry, name")
    assert result.returncode == 0, result.stderr


def test_the_counter_is_not_imported_before_it_is_wanted():
    result = python("-c", "import asose_fast.ops, sys; assert 'torch.utils.flop_counter' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_depthwise_outputs_that_were_kept_are_not_computed_again():
    x, taps, matrix = (2, 8, 4, 4), (8, 1, 3, 3), (8, 8, 1, 1)
    again = 2 * math.prod(x) * 9

    def lone(ys):
        nothing = [None] * 4
        needs = [[True], [1], 1, True, False, False, [True], [True], [True]]
        return flops.separable_norm_bwd(
            x, x, [taps], [matrix], *nothing, x, (1, 2, 8), ys, (0,), *needs, out_shape=None
        )

    def stage(ys):
        tables = [(1, 2, 8), [x], (9, 8), (1, 8, 8), [taps], [matrix], *[None] * 4]
        return flops.stage_bwd([x], [x], *tables, [1], 1, [True], [True], [True], False, ys, out_shape=None)

    assert lone((0,)) - lone(x) == again
    assert stage([]) - stage([x]) == again

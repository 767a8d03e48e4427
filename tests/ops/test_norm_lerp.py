"""norm_lerp: value, gradients and running statistics of the modules, in every dtype, layout and kind of norm."""

import copy

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("norm_lerp", b, "cpu")]
SHAPES = [(4, 5, 3, 3), (2, 1, 1, 1), (3, 17, 7, 2), (2, 40, 20, 33)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
TOLERANCES = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_what_the_modules_do(dtype, kind, shape, backend):
    norm = new_norm(shape[1], **KINDS[kind])
    exact_norm = copy.deepcopy(norm).double()
    layouts = [LAYOUTS[len(kind) % 2], LAYOUTS[shape[1] % 2], LAYOUTS[shape[0] % 2]]
    z, shortcut, grad = (torch.randn(shape).to(dtype, memory_format=layout) for layout in layouts)
    leaves = [z, shortcut, torch.tensor(0.3)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = torch.lerp(exact[1], exact_norm(exact[0]), exact[2])
    expected.backward(grad.double())
    with ops.backend(backend):
        y = ops.norm_lerp(leaves[0], norm, *leaves[1:])
        y.backward(grad)
    found = [y, *(leaf.grad for leaf in leaves), *(p.grad for p in norm.parameters()), *norm.buffers()]
    wanted = [expected, *(t.grad for t in exact), *(p.grad for p in exact_norm.parameters()), *exact_norm.buffers()]
    assert (y.dtype, y.shape) == (dtype, z.shape)
    assert y.is_contiguous(memory_format=layouts[0])
    for a, b in zip(found, wanted, strict=True):
        scale = max(1.0, b.double().abs().max().item())
        torch.testing.assert_close(a.double() / scale, b.double() / scale, **TOLERANCES[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
@pytest.mark.parametrize("kind", ["plain", "eval"])
def test_the_gradients_that_are_asked_for_alone(kind, wanted, backend):
    norm, grad = new_norm(3, **KINDS[kind]).requires_grad_(False), torch.randn(2, 3, 4, 5)
    leaves = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.tensor(0.5)]
    asked = [leaves[i].requires_grad_() for i in wanted]
    expected = torch.autograd.grad(torch.lerp(leaves[1], norm(leaves[0]), leaves[2]), asked, grad)
    with ops.backend(backend):
        found = torch.autograd.grad(ops.norm_lerp(leaves[0], norm, *leaves[1:]), asked, grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_branch_of_gain_0_stays_out(backend):
    norm = new_norm(3)
    z = torch.full((2, 3, 4, 4), torch.nan, requires_grad=True)
    shortcut = torch.randn(2, 3, 4, 4)
    with ops.backend(backend):
        y = ops.norm_lerp(z, norm, shortcut, torch.tensor(0.0))
        y.sum().backward()
    assert torch.equal(y, shortcut)
    assert not z.grad.any()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"z": torch.ones(2, 3, 4)}, r"z must be \(N, C, H, W\)"),
        ({"z": torch.ones(1, 3, 1, 1), "shortcut": torch.ones(1, 3, 1, 1)}, "more than 1 value per channel"),
        ({"shortcut": torch.ones(2, 3, 4, 5)}, r"shortcut must be torch.float32 \(2, 3, 4, 4\)"),
        ({"shortcut": torch.ones(2, 3, 4, 4).double()}, "shortcut must be torch.float32"),
        ({"gain": torch.ones(1)}, "gain must be a floating scalar"),
        ({"norm": torch.nn.BatchNorm2d(4)}, "norm is for 4 channels, z has 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    z = torch.randn(2, 3, 4, 4)
    right = {"z": z, "norm": torch.nn.BatchNorm2d(3), "shortcut": z, "gain": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=match):
        ops.norm_lerp(**right | changes)


def test_opcheck():
    calls = right_calls()
    for name in ("norm_lerp_fwd", "norm_lerp_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))

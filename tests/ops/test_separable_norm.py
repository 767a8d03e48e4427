"""separable_norm: value, gradients and running statistics of the modules, in every dtype and kind of norm."""

import copy

import pytest
import torch
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.mixed_layer import Stage, mixed_layer
from tests.ops.cases.separable_norm import stages
from tests.ops.raw_calls import OPERATORS, right_calls
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("separable_norm", b, "cpu")]
SHAPES = [(4, 5, 3, 3), (3, 17, 7, 2), (2, 40, 12, 19), (3, 1, 1, 2)]
IN_THE_INTERPRETER = [(2, 17, 7, 10), (3, 1, 1, 2)]  # which is slow
BLENDS = ["none", "x", "other"]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}


def modules_of(chain):
    return nn.ModuleList([module for stage in chain for module in stage])


def tensors_for(blend, shape, stride, dtype, layout=torch.channels_last):
    """x, and the shortcut and the gain where there are such."""
    out = (*shape[:2], *(-(-side // stride) for side in shape[2:]))
    x, shortcut = (torch.randn(s).to(dtype, memory_format=layout) for s in (shape, out))
    return [x, *{"none": [], "x": [torch.tensor(0.3)], "other": [shortcut, torch.tensor(0.3)]}[blend]]


def fused(chain, stride, blend, x, *rest):
    options = {"none": {}, "x": {"shortcut": x}, "other": {"shortcut": rest[0] if rest else None}}[blend]
    return ops.separable_norm(x, chain, stride=stride, **options, **({} if blend == "none" else {"gain": rest[-1]}))


def plain(chain, stride, blend, x, *rest):
    y = x
    for depthwise, pointwise, norm in chain:
        y = norm(pointwise(depthwise(y.relu())))
    return y if blend == "none" else torch.lerp(x if blend == "x" else rest[0], y, rest[-1])


def results(run, chain, stride, blend, tensors):
    """y, all gradients and the buffers."""
    modules = modules_of(chain)
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = run(chain, stride, blend, *leaves)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape, dtype=torch.float64).to(y.dtype))
    return [y, *(t.grad for t in leaves), *(p.grad for p in modules.parameters()), *modules.buffers()]


@pytest.mark.parametrize(
    ("backend", "shape"), [(b, shape) for b in BACKENDS for shape in (IN_THE_INTERPRETER if b == "triton" else SHAPES)]
)
@pytest.mark.parametrize(("count", "stride", "blend"), [(1, 1, "x"), (2, 1, "x"), (3, 2, "other"), (2, 2, "none")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_what_the_modules_do(dtype, kind, shape, count, stride, blend, backend):
    kinds = [KINDS[kind], KINDS["affine"]] * count
    chain = stages(shape[1], *(new_norm(shape[1], **k) for k in kinds[:count]), stride=stride, dilation=2)
    exact_chain = [Stage(*stage) for stage in copy.deepcopy(chain)]
    modules_of(exact_chain).double()
    if shape[0] * -(-shape[2] // stride) * -(-shape[3] // stride) < 2:
        pytest.skip("a norm needs two values")
    tensors = tensors_for(
        blend, shape, stride, dtype, torch.contiguous_format if shape[1] == 5 else torch.channels_last
    )
    with ops.backend(backend):
        found = results(fused, chain, stride, blend, tensors)
    wanted = results(plain, exact_chain, stride, blend, [t.double() for t in tensors])
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        error = (a.double() - b).abs().max()
        assert error <= max(TOLERANCES[dtype], TOLERANCES.get(a.dtype, 0)) * (1 + b.abs().max())


@pytest.mark.skipif("triton" not in BACKENDS, reason="the kernels are not there")
@pytest.mark.parametrize("limits", [{"_TASKS": 2}, {"_MOST_TAPS": 1}], ids=["tiles", "apart"])
@pytest.mark.parametrize("stride", [1, 2])
def test_tasks_of_several_tiles_and_products_that_run_apart(stride, limits, monkeypatch):
    from asose_fast.ops.triton import depthwise_product, products

    for name, value in limits.items():
        monkeypatch.setattr(depthwise_product, name, value)
        monkeypatch.setattr(products, name, value, raising=False)
    chain = stages(72, *(new_norm(72, **KINDS["affine"]) for _ in range(2)), stride=stride)
    exact_chain = [Stage(*stage) for stage in copy.deepcopy(chain)]
    modules_of(exact_chain).double()
    tensors = tensors_for("none", (3, 72, 9, 11), stride, torch.float32)
    with ops.backend("triton"):
        found = results(fused, chain, stride, "none", tensors)
    wanted = results(plain, exact_chain, stride, "none", [t.double() for t in tensors])
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 2e-5 * (1 + b.abs().max())


def as_a_layer(chain, stride, blend, x, *rest):
    if blend == "none":
        return mixed_layer(x, x.new_ones(1, dtype=torch.float32), [chain], stride=stride)
    shortcut, gain = x if blend == "x" else rest[0], rest[-1].float()
    return mixed_layer(x, torch.stack([gain, 1 - gain]), [chain], stride=stride, plain=[shortcut])


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the kernels are not there")
@pytest.mark.parametrize(("count", "stride", "blend"), [(1, 1, "x"), (2, 1, "x"), (3, 2, "other"), (2, 2, "none")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_a_mixed_layer_of_one_chain(dtype, count, stride, blend):
    """That has the same kernels, so that roundings in bfloat16 are its roundings."""
    kinds = [KINDS["affine"], KINDS["plain"], KINDS["eval"]]
    chain = stages(40, *(new_norm(40, **k) for k in kinds[:count]), stride=stride)
    other = [Stage(*stage) for stage in copy.deepcopy(chain)]
    tensors = tensors_for(blend, (2, 40, 12, 19), stride, dtype)
    with ops.backend("cpu"):
        found, wanted = (
            results(fused, chain, stride, blend, tensors),
            results(as_a_layer, other, stride, blend, tensors),
        )
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 1e-2, "atol": 1e-2} if a.dtype == torch.bfloat16 else {}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "asked", ["x", "gain", "shortcut", "0.weight", "1.weight", "2.weight", "2.bias", "4.weight", "5.bias"]
)
def test_the_gradients_that_are_asked_for_alone(asked, training, backend):
    chain = stages(5, new_norm(5, training=training), new_norm(5, training=training))
    modules = modules_of(chain).requires_grad_(False)
    x, shortcut, gain = tensors_for("other", (3, 5, 4, 6), 1, torch.float32)
    named = {"x": x, "shortcut": shortcut, "gain": gain, **dict(modules.named_parameters())}
    leaf = named[asked].requires_grad_()
    grad = torch.randn_like(x)
    (expected,) = torch.autograd.grad(plain(chain, 1, "other", x, shortcut, gain), leaf, grad)
    with ops.backend(backend):
        (found,) = torch.autograd.grad(fused(chain, 1, "other", x, shortcut, gain), leaf, grad)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 72])
def test_a_chain_of_gain_0_stays_out(channels, backend):
    chain = stages(channels, new_norm(channels), new_norm(channels))
    with torch.no_grad():
        chain[0].pointwise.weight.fill_(torch.nan)
    x = torch.randn(2, channels, 4, 4, requires_grad=True)
    with ops.backend(backend):
        y = ops.separable_norm(x, chain, shortcut=x, gain=torch.tensor(0.0))
        y.sum().backward()
    assert torch.equal(y, x)
    assert torch.equal(x.grad, torch.ones_like(x))
    for parameter in modules_of(chain).parameters():
        assert not parameter.grad.any()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must be \(N, C, H, W\)"),
        ({"x": torch.ones(2, 4, 5, 5)}, ValueError, r"depthwise.weight must be \(4, 1, 3, 3\)"),
        ({"stride": 3}, ValueError, "stride must be 1 or 2"),
        ({"stages": []}, ValueError, "chains must have a stage or more"),
        ({"shortcut": torch.ones(2, 3, 5, 5)}, ValueError, "a shortcut must come with a gain"),
        ({"gain": torch.tensor(0.5), "shortcut": torch.ones(2, 3, 5, 4)}, ValueError, "shortcut must be"),
        ({"gain": torch.ones(2)}, ValueError, "gain must be a floating scalar"),
        ({"x": torch.ones(1, 3, 1, 1)}, ValueError, "more than 1 value per channel"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, match):
    right = {"x": torch.randn(2, 3, 5, 5), "stages": stages(3, nn.BatchNorm2d(3))}
    with pytest.raises(error, match=match):
        ops.separable_norm(**right | changes)


def test_opcheck():
    calls = right_calls()
    forward = calls["separable_norm_fwd"]
    updating = {"of_batch": [True, False], "updates": [True, False], "counts": [torch.tensor(4)]}
    for changes in ({}, updating):
        torch.library.opcheck(OPERATORS.separable_norm_fwd, tuple((forward | changes).values()))
    torch.library.opcheck(OPERATORS.separable_norm_bwd, tuple(calls["separable_norm_bwd"].values()))

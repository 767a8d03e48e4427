"""norm_depthwise against the modules it stands for, in float64; statistics, subsets of gradients, refusals."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.norm_depthwise import norm_depthwise

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("multi_depthwise", b, "cpu")]
KERNELS, DILATIONS = (3, 5, 7), (1, 2, 1)


def reference(zs, norms, weights, *, dilations):
    return tuple(
        F.conv2d(norm(z).relu(), w, None, 1, d * (w.shape[-1] - 1) // 2, d, len(w))
        for z, norm, w, d in zip(zs, norms, weights, dilations, strict=True)
    )


def make(dtype=torch.float64, channels=5, size=8, affine=True, modes=(True, True, True), **options):
    zs = [torch.randn(3, channels, size, size + 1, dtype=dtype) * 2 + 0.5 for _ in KERNELS]
    weights = [torch.randn(channels, 1, k, k, dtype=dtype) for k in KERNELS]
    norms = [nn.BatchNorm2d(channels, affine=affine, dtype=dtype, **options).train(mode) for mode in modes]
    for norm in norms:
        for name, tensor in norm.state_dict().items():
            if name != "num_batches_tracked":
                tensor.uniform_(0.5, 1.5)
    return [t.requires_grad_() for t in zs], norms, [w.requires_grad_() for w in weights]


def results(function, zs, norms, weights, used=(0, 1, 2)):
    """Outputs, gradients and buffers; the loss takes the outputs `used`."""
    norms = copy.deepcopy(norms)
    ys = function(zs, norms, weights, dilations=DILATIONS)
    leaves = [*zs, *weights, *(p for norm in norms for p in norm.parameters())]
    loss = sum((ys[b] * torch.linspace(-1, 1, ys[b].numel(), dtype=ys[b].dtype).view(ys[b].shape)).sum() for b in used)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [*ys, *grads, *(b for norm in norms for b in norm.buffers())]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", [(0, 1, 2), (1,)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affine": False},
        {"modes": (True, False, True)},
        {"modes": (False, False, False), "affine": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"channels": 1},
        {"size": 1},
    ],
    ids=str,
)
def test_agrees_with_the_modules(backend, used, options):
    inputs = make(**options)
    with ops.backend(backend):
        got = results(norm_depthwise, *inputs, used)
    for a, b in zip(got, results(reference, *inputs, used), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_precision(dtype, tolerance):
    zs, norms, weights = make(dtype, channels=16, size=20, affine=False)
    exact = [[t.detach().double().requires_grad_() for t in ts] for ts in (zs, weights)]
    wide = [copy.deepcopy(norm).double() for norm in norms]
    expected = results(reference, exact[0], wide, exact[1])
    for got, value in zip(results(norm_depthwise, zs, norms, weights), expected, strict=True):
        assert (got.double() - value).abs().max() <= tolerance * value.abs().max()


def test_without_gradients_nothing_is_kept():
    zs, norms, weights = make()
    with torch.no_grad():
        ys = norm_depthwise(zs, norms, weights, dilations=DILATIONS)
    assert not any(y.requires_grad for y in ys)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)


def test_frozen_parameters_get_no_gradient():
    zs, norms, weights = make(affine=False)
    frozen = [w.detach() for w in weights]
    norm_depthwise(zs, norms, frozen, dilations=DILATIONS)[0].sum().backward()
    assert zs[0].grad is not None
    assert [z.grad for z in zs[1:]] == [None, None]


def test_a_single_value_a_channel_is_refused_in_training():
    zs = [torch.randn(1, 2, 1, 1)]
    with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
        norm_depthwise(zs, [nn.BatchNorm2d(2)], [torch.randn(2, 1, 3, 3)], dilations=[1])

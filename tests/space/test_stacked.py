"""The stacked-branch plan against the candidates run one by one: values, gradients, running statistics."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.space import CANDIDATES, MixedOp
from asose_fast.space.stacked import Branches

NAMES = tuple(CANDIDATES)
DARTS = NAMES[:6] + NAMES[7:9]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Scale(nn.Module):
    """A user's candidate."""

    def __init__(self, stride):
        super().__init__()
        self.stride, self.factor = stride, nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.factor * x[:, :, :: self.stride, :: self.stride].tanh()


def wide_stage(channels, stride):
    """A chain of three stages, the first of an uncommon kernel, with affine norms."""

    def stage(kernel, stride):
        depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        return [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels, momentum=None)]

    return nn.Sequential(*stage(9, stride), *stage(3, 1), *stage(5, 1))


def pair(names, channels, stride, dtype, *, users=False, train=True):
    """The same mixed operation with the plain and with the stacked plan, every buffer and parameter random."""
    plain = MixedOp(names, channels, stride, fused=False)
    if users:
        plain.ops["scale"], plain.ops["wide"] = Scale(stride), wide_stage(channels, stride)
    for name, tensor in plain.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    plain.to(dtype).train(train)
    stacked = copy.deepcopy(plain)
    stacked.fused = True
    return plain, stacked


def results(mixed, x, weights, index=None, gain=None):
    """Value, all gradients and all buffers. Gradients that are 0 may be absent."""
    leaves = {"x": x.clone().requires_grad_(), "weights": weights.clone().requires_grad_()}
    shortcut = leaves["x"]
    if gain is not None:
        leaves["gain"] = torch.tensor(gain, dtype=x.dtype, requires_grad=True)
        if mixed.stride == 2:
            shortcut = F.avg_pool2d(shortcut, 2, ceil_mode=True, count_include_pad=False)
    y = mixed(leaves["x"], leaves["weights"], index, gain=leaves.get("gain"), shortcut=shortcut)
    leaves |= dict(mixed.named_parameters())
    grad = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(y, list(leaves.values()), grad, allow_unused=True)
    zero = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = {f"d{name}": zero[name] if g is None else g for name, g in zip(leaves, grads, strict=True)}
    return {"y": y.detach(), **found, **dict(mixed.named_buffers())}


def assert_same(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        difference = (got[name] - value).abs().max()
        assert difference <= tolerance * max(value.abs().max(), 1e-3), f"{name}: {difference} of {value.abs().max()}"


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), train=st.booleans(), users=st.booleans())
def test_plans_agree(data, dtype, train, users):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    stride, gain = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([None, 0.3]))
    size = st.integers(3, 12)
    shape = (data.draw(st.integers(2, 3)), data.draw(st.sampled_from([2, 3, 5, 16, 17])), data.draw(size), data.draw(size))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    plain, stacked = pair(names, shape[1], stride, dtype, users=users, train=train)
    k = len(plain.ops)
    index = data.draw(st.one_of(st.none(), st.integers(0, k - 1)))
    weights = torch.rand(k, dtype=dtype) if index is None else torch.eye(k, dtype=dtype)[index]
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
    # In float32 both are compared with float64, as far as they are from it: sums of few values cancel.
    expected = results(copy.deepcopy(plain).double(), x.double(), weights.double(), index, gain)
    got, own = results(stacked, x, weights, index, gain), results(plain, x, weights, index, gain)
    slack = 1 if dtype == torch.float64 else 20
    assert got.keys() == own.keys()
    for name, value in expected.items():
        scale = max(value.abs().max(), 1e-3)
        error, usual = ((result[name].double() - value).abs().max() / scale for result in (got, own))
        assert error <= TOLERANCE[dtype] + slack * usual, f"{name}: {error}, plain {usual}"

"""mixed_layer: against plain modules in float64, with norms of every kind; weights of 0; what is refused."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.mixed_layer import Stage, mixed_layer

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("separable", b, "cpu")]
KINDS = {
    "plain": {"affine": False},
    "affine": {},
    "average": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "eval": {"training": False},
    "untracked eval": {"affine": False, "track_running_stats": False, "training": False},
}
CONVOLUTIONS = [(3, 1), (5, 2), (7, 1), (1, 1), (3, 2)]


def new_norm(channels, affine=True, training=True, **options):
    """A BatchNorm2d with random parameters and running statistics."""
    norm = nn.BatchNorm2d(channels, affine=affine, **options).train(training)
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            tensor.uniform_(0.5, 1.5)
    return norm


class Layer(nn.Module):
    """The modules of a mixed layer with chains of these lengths; its norms are of `kinds`, in turn."""

    def __init__(self, channels=3, stride=1, lengths=(2, 1), pools=True, others=1, kinds=("affine",)):
        super().__init__()
        self.stride = stride
        convolutions, kind = itertools.cycle(CONVOLUTIONS), itertools.cycle(kinds)

        def norm():
            return new_norm(channels, **KINDS[next(kind)])

        def stage(stride):
            kernel, dilation = next(convolutions)
            pad = dilation * (kernel - 1) // 2
            depthwise = nn.Conv2d(channels, channels, kernel, stride, pad, dilation, channels, bias=False)
            return nn.ModuleList([depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm()])

        self.chains = nn.ModuleList(
            nn.ModuleList(stage(1 if depth else stride) for depth in range(length)) for length in lengths
        )
        self.pools = nn.ModuleList(norm() for _ in range(2 * pools))
        self.norms = nn.ModuleList(norm() for _ in range(others))
        self.double()

    def values(self, shape, plain=1):
        """Random tensors for the layer, and a gradient of its output."""
        out = (*shape[:2], *((size - 1) // self.stride + 1 for size in shape[2:]))
        values = {
            "x": torch.randn(shape),
            "weights": torch.randn(len(self.chains) + len(self.pools) + len(self.norms)),
            "plain_weights": torch.randn(plain),
            **{f"zs.{k}": torch.randn(out) for k in range(len(self.norms))},
            **{f"plain.{k}": torch.randn(out) for k in range(plain)},
        }
        return {name: t.double() for name, t in values.items()}, torch.randn(out).double()

    def forward(self, x, weights, **options):
        chains = [[Stage(*stage) for stage in chain] for chain in self.chains]
        options |= {"pools": list(self.pools), "norms": list(self.norms)}
        return mixed_layer(x, weights, chains, stride=self.stride, **options)

    def plain(self, x, weights, *, zs, plain, plain_weights, tracked=None, recompute=False):
        """What `forward` computes, module by module."""
        outputs = []
        for chain in self.chains:
            z = x
            for depthwise, pointwise, norm in chain:
                z = norm(pointwise(depthwise(z.relu())))
            outputs.append(z)
        if self.pools:
            average, maximum = self.pools
            outputs.append(average(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)))
            outputs.append(maximum(F.max_pool2d(x, 3, self.stride, 1)))
        outputs = [o if use else o.detach() for o, use in zip(outputs, tracked or [True] * len(outputs), strict=True)]
        outputs += [norm(z) for norm, z in zip(self.norms, zs, strict=True)]
        terms = zip([*weights, *plain_weights], [*outputs, *plain], strict=True)
        return sum(w * term for w, term in terms)


def results(layer, function, values, grad, need=None, before_backward=None, **options):
    """Value, gradients, by default all of them, and buffers. Gradients that are 0 may be absent."""
    leaves = {name: t.clone() for name, t in values.items()} | dict(layer.named_parameters())
    for name, leaf in leaves.items():
        leaf.requires_grad_(need is None or name in need)
    zs, plain = ([t for name, t in leaves.items() if name.startswith(group)] for group in ("zs.", "plain."))
    y = function(leaves["x"], leaves["weights"], zs=zs, plain=plain, plain_weights=leaves["plain_weights"], **options)
    found = {"y": y.detach()}
    if before_backward:
        before_backward()
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    if y.requires_grad:
        grads = torch.autograd.grad(y, list(wanted.values()), grad, allow_unused=True)
        for (name, leaf), g in zip(wanted.items(), grads, strict=True):
            found[f"d{name}"] = torch.zeros_like(leaf) if g is None else g
    return found | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_close(got, expected, tolerance=1e-10):
    for name, value in expected.items():
        error = (got[name] - value).abs().max() if value.numel() else 0
        assert error <= tolerance * max(value.abs().max(), 1), f"{name}: off by {error}"


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_modules(backend, data):
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    stride = data.draw(st.sampled_from([1, 2]))
    lengths = data.draw(st.lists(st.integers(1, 3), max_size=4))
    pools, plain = data.draw(st.booleans()), data.draw(st.integers(0, 2))
    others = data.draw(st.integers(0 if pools or lengths else 1, 2))
    kinds = data.draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=7))
    size = st.integers(1, 9)
    shape = (data.draw(st.integers(2, 3)), data.draw(st.sampled_from([1, 2, 5, 17])), data.draw(size), data.draw(size))
    layer = Layer(shape[1], stride, sorted(lengths, reverse=True), pools, others, kinds)
    values, grad = layer.values(shape, plain)
    hands_on = len(lengths) + 2 * pools
    tracked = data.draw(st.none() | st.lists(st.booleans(), min_size=hands_on, max_size=hands_on))
    for k in range(len(values["weights"])):
        if data.draw(st.integers(0, 3)) == 0:
            values["weights"][k] = 0
    names = sorted([*values, *(name for name, _ in layer.named_parameters())])
    need = data.draw(st.none() | st.sets(st.sampled_from(names)))
    twin = copy.deepcopy(layer)
    expected = results(twin, twin.plain, values, grad, need, tracked=tracked)
    with ops.backend(backend):
        got = results(layer, layer, values, grad, need, tracked=tracked, recompute=data.draw(st.booleans()))
    assert_close(got, expected, 1e-9)

"""What tests of `multi_depthwise` and `separable` share: random arguments, and a check of all results in float64."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from asose_fast import ops
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import accumulation_dtype

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SUPERNET = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)]
OTHERS = [(1, 1), (3, 3), (5, 4), (7, 2), (9, 1)]
BRANCHES = st.one_of(st.just(SUPERNET), st.lists(st.sampled_from(SUPERNET + OTHERS), min_size=1, max_size=4))
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "sliced"])
SIZES = st.one_of(st.integers(1, 12), st.sampled_from([16, 31, 33, 41]))
SHAPES = st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 7, 8, 16, 17, 24]), SIZES, SIZES)


class Case(NamedTuple):
    """Arguments of an operator, the gradients of its outputs (or None), and which tensors need a gradient."""

    tensors: dict[str, list[Tensor]]
    """In the operator's order: xs, weights, pointwise where it has them, and scale and shift, or nothing."""
    options: dict
    grads: list[Tensor | None]
    need: dict[str, list[bool]]
    own: bool

    def map(self, function):
        """The case with function(tensor) for every tensor."""
        return self._replace(
            tensors={name: [function(t) for t in group] for name, group in self.tensors.items()},
            grads=[None if g is None else function(g) for g in self.grads],
        )


def eighths(shape, dtype, generator=None):
    """Random multiples of 1/8, exact in every dtype, so that no rounding moves a value across the ReLU's zero."""
    return (torch.randint(-16, 17, shape, generator=generator) / 8).to(dtype)


def lay_out(x, layout):
    """A tensor of x's values in another layout."""
    if layout == "sliced":
        return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
    return x.contiguous(memory_format=torch.contiguous_format if layout == "contiguous" else torch.channels_last)


@st.composite
def cases(draw, dtype, own, *, pointwise=False, shapes=SHAPES):
    """Any arguments of `multi_depthwise` or, with `pointwise`, of `separable`."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    shape, branches, stride = draw(shapes), draw(BRANCHES), draw(st.sampled_from([1, 2]))
    channels, inputs, wide = shape[1], len(branches) if own else 1, accumulation_dtype(dtype)
    tensors = {
        "x": [lay_out(eighths(shape, dtype, generator), draw(LAYOUTS)) for _ in range(inputs)],
        "weight": [eighths((channels, 1, k, k), wide, generator) for k, _ in branches],
    }
    if pointwise:
        tensors["pointwise"] = [eighths((channels, channels, 1, 1), wide, generator) for _ in branches]
    affine = (inputs, channels) if own else (channels,)
    tensors["affine"] = [eighths(affine, wide, generator) for _ in range(2)] if draw(st.booleans()) else []
    out = (*shape[:2], *((s - 1) // stride + 1 for s in shape[2:]))
    grads = [lay_out(eighths(out, dtype, generator), draw(LAYOUTS)) for _ in branches]
    used = [draw(st.booleans()) for _ in branches]
    grads = [g if use or not any(used) else None for g, use in zip(grads, used, strict=True)]
    options = {"dilations": [d for _, d in branches], "stride": stride, "relu": draw(st.booleans())}
    need = {name: [draw(st.booleans()) for _ in group] for name, group in tensors.items()}
    return Case(tensors, options, grads, need, own)


def run(function, case):
    """The outputs and, by name, the gradients of the tensors that need one."""
    groups = {
        name: [t.detach().requires_grad_(n) for t, n in zip(group, case.need[name], strict=True)]
        for name, group in case.tensors.items()
    }
    xs, *weights, affine = groups.values()
    options = case.options | dict(zip(("scale", "shift"), affine, strict=False))
    ys = function(xs if case.own else xs[0], *weights, **options)
    leaves = {f"{name}[{i}]": t for name, group in groups.items() for i, t in enumerate(group) if t.requires_grad}
    used = [(y, g) for y, g in zip(ys, case.grads, strict=True) if g is not None and y.requires_grad]
    if not used:
        return ys, dict.fromkeys(leaves)
    outputs, grads = zip(*used, strict=True)
    found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    return ys, dict(zip(leaves, found, strict=True))


def close(got, expected, dtype, what, slack=1):
    if expected is None:
        assert got is None or not got.any(), what
        return
    assert got.isfinite().all(), what
    error = (got.double().cpu() - expected).abs().max()
    assert error <= slack * TOLERANCE[dtype] * (expected.abs().max() + 1), f"{what}: off by {error}"


def check(function, reference, case, backend, slack=1):
    """All results of `function` on a backend against those of `reference` in float64 on the CPU, within `slack`
    tolerances."""
    with ops.backend(backend):
        ys, got = run(function, case)
    exact_ys, expected = run(reference, case.map(lambda t: t.double().cpu()))
    dtype = case.tensors["x"][0].dtype
    for b, (y, exact) in enumerate(zip(ys, exact_ys, strict=True)):
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, exact, dtype, f"output {b}", slack)
    for name, exact in expected.items():
        close(got[name], exact, dtype, f"gradient of {name}", slack)


def supernet_plan(own, stride, affine):
    kernels, dilations = zip(*SUPERNET, strict=True)
    return DepthwisePlan(kernels, dilations, len(kernels) if own else 1, stride, True, affine)

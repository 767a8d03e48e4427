"""Arguments of the public functions of asose_fast.ops: shapes, dtypes, layouts, wrong types."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from asose_fast import ops
from tests.campaigns.fuzz.target import Target, refused

Draw = Callable[[Any], Any]
FLOATS = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
LAYOUTS = ("contiguous", "channels_last", "permuted", "strided", "expanded", "offset")
JUNK = st.sampled_from(
    (None, 0, 1, -1, 2.5, math.nan, math.inf, "x", b"x", (), [], {}, object(), True, 10**30, torch.float32)
) | st.builds(lambda: np.ones((2, 3), np.float32))

HUGE = st.sampled_from((2000, 2**31 - 1, 2**31, 2**32 + 1, 2**61, 2**62, 2**62 + 10**6, 2**63 - 1, 2**63, 10**30))


def laid_out(shape: tuple[int, ...], dtype: torch.dtype, layout: str, values: str) -> Tensor:
    """A tensor of this shape, whatever its strides."""
    x = torch.arange(math.prod(shape)).reshape(shape).remainder(7).sub(3).to(dtype)
    if x.is_floating_point() and x.numel() and values != "small":
        x.view(-1)[-1] = float(values)
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "permuted" and x.dim():
        return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    if layout == "strided" and x.dim():
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]
    if layout == "expanded" and x.dim() and x.shape[0]:
        return x[:1].expand(shape)
    if layout == "offset":
        return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(shape)
    return x


@st.composite
def tensors(draw: Draw, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Of this shape and dtype, in any layout, with or without a gradient."""
    values = draw(st.sampled_from(("small", "small", "small", "nan", "inf")))
    x = laid_out(shape, dtype, draw(st.sampled_from(LAYOUTS)), values)
    return x.requires_grad_() if x.is_floating_point() and draw(st.booleans()) else x


@st.composite
def strange(draw: Draw) -> Any:
    """Something else than what was asked for: a tensor of another shape, dtype, device or layout, or no tensor."""
    if draw(st.booleans()):
        return draw(JUNK)
    x = draw(tensors(tuple(draw(st.lists(st.integers(0, 4), max_size=5))), draw(st.sampled_from(DTYPES))))
    kind = draw(st.sampled_from(("dense",) * 4 + ("meta", "sparse", "subclass")))
    if kind == "meta":
        return x.to("meta")
    if kind == "sparse":
        return x.detach().to_sparse()
    return nn.Parameter(x.detach().float()) if kind == "subclass" else x


def shapes(draw: Draw) -> tuple[int, ...]:
    """(N, C, H, W), small."""
    return tuple(draw(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))))


@st.composite
def calls(draw: Draw, right: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Right arguments, of which often one or two, or one of a sequence's, are replaced by something strange."""
    arguments = dict(draw(right))
    for _ in range(draw(st.sampled_from((0, 1, 1, 2)))):
        name = draw(st.sampled_from(sorted(arguments)))
        value = arguments[name]
        if isinstance(value, (list, tuple)) and value and draw(st.booleans()):
            place = draw(st.integers(0, len(value) - 1))
            arguments[name] = [*value[:place], draw(strange()), *value[place + 1 :]]
        else:
            arguments[name] = draw(strange())
    return arguments


@st.composite
def for_mixed_sum(draw: Draw) -> dict[str, Any]:
    shape, dtype, k = shapes(draw)[: draw(st.integers(0, 4))], draw(st.sampled_from(FLOATS)), draw(st.integers(1, 5))
    return {"xs": [draw(tensors(shape, dtype)) for _ in range(k)], "weights": draw(tensors((k,), torch.float32))}


@st.composite
def for_total_norm(draw: Draw) -> dict[str, Any]:
    dtype = draw(st.sampled_from(FLOATS))
    return {"tensors": [draw(tensors(shapes(draw), dtype)) for _ in range(draw(st.integers(0, 3)))]}


@st.composite
def for_cross_entropy(draw: Draw) -> dict[str, Any]:
    rows, classes = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    labels = st.lists(st.integers(0, classes - 1) | st.sampled_from((-100, -1, 5, 2**62)), min_size=rows, max_size=rows)
    return {
        "scores": draw(tensors((rows, classes), draw(st.sampled_from(FLOATS)))),
        "labels": torch.tensor(draw(labels), dtype=torch.int64),
        "smoothing": draw(st.sampled_from((0, 0.1, 1.0)) | st.floats()),
    }


@st.composite
def for_linear(draw: Draw) -> dict[str, Any]:
    sizes = st.integers(0, 3) | st.integers(0, 40)
    rows, features, outputs, dtype = draw(sizes), draw(sizes), draw(sizes), draw(st.sampled_from(FLOATS))
    return {
        "x": draw(tensors((rows, features), dtype)),
        "weight": draw(tensors((outputs, features), dtype)),
        "bias": draw(st.none() | tensors((outputs,), dtype)),
    }


@st.composite
def for_sgd(draw: Draw) -> dict[str, Any]:
    kinds = [(shapes(draw), draw(st.sampled_from(FLOATS))) for _ in range(draw(st.integers(1, 3)))]
    lists = [[draw(tensors(*kind)) for kind in kinds] for _ in range(3)]
    momentum = draw(st.sampled_from((0.0, 0.9)))
    norm = draw(tensors((), draw(st.sampled_from((torch.float32, torch.float64)))))
    return {
        "parameters": lists[0],
        "gradients": lists[1],
        "momenta": lists[2] if momentum else [],
        "rate": draw(st.sampled_from((0, 0.1))),
        "momentum": momentum,
        "decay": draw(st.sampled_from((0.0, 3e-4))),
        "nesterov": draw(st.booleans()),
        "clip": draw(st.none() | st.just(ops.Clip(norm, 5.0))),
    }


@st.composite
def norms(draw: Draw, channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(
        channels,
        affine=draw(st.booleans()),
        track_running_stats=draw(st.booleans()),
        momentum=draw(st.sampled_from((0.1, None))),
    ).train(draw(st.booleans()))


@st.composite
def for_mixed_norm_sum(draw: Draw) -> dict[str, Any]:
    shape, dtype = shapes(draw), draw(st.sampled_from(FLOATS))
    k, j = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    return {
        "zs": [draw(tensors(shape, dtype)) for _ in range(k)],
        "weights": draw(tensors((k,), torch.float32)),
        "norms": [draw(norms(shape[1])) for _ in range(k)],
        "plain": [draw(tensors(shape, dtype)) for _ in range(j)],
        "plain_weights": draw(st.none() | tensors((j,), torch.float32)),
    }


@st.composite
def for_norm_pool(draw: Draw) -> dict[str, Any]:
    shape = shapes(draw)
    z = draw(tensors(shape, draw(st.sampled_from(FLOATS))))
    return {"z": z, "norm": draw(norms(shape[1])), "pool": draw(st.sampled_from((1, 2)))}


@st.composite
def for_depthwise(draw: Draw, pointwise: bool) -> dict[str, Any]:
    shape, dtype, b = shapes(draw), draw(st.sampled_from(FLOATS)), draw(st.integers(1, 3))
    shared = draw(st.booleans())
    rows = (shape[1],) if shared else (b, shape[1])
    affine = draw(st.booleans())
    arguments = {
        "xs": draw(tensors(shape, dtype)) if shared else [draw(tensors(shape, dtype)) for _ in range(b)],
        "weights": [
            draw(tensors((shape[1], 1, *(2 * [k])), dtype))
            for k in draw(st.lists(st.sampled_from((1, 3, 5, 7, 9, 21)), min_size=b, max_size=b))
        ],
        "dilations": draw(st.lists(st.integers(1, 12) | HUGE, min_size=b, max_size=b)),
        "stride": draw(st.sampled_from((1, 2))),
        "relu": draw(st.booleans()),
        "scale": draw(tensors(rows, torch.float32)) if affine else None,
        "shift": draw(tensors(rows, torch.float32)) if affine else None,
    }
    if pointwise:
        arguments["pointwise"] = [draw(tensors((shape[1], shape[1], 1, 1), dtype)) for _ in range(b)]
    return arguments


@st.composite
def for_pool_pair(draw: Draw) -> dict[str, Any]:
    return {"x": draw(tensors(shapes(draw), draw(st.sampled_from(FLOATS)))), "stride": draw(st.sampled_from((1, 2)))}


@st.composite
def for_line_conv(draw: Draw) -> dict[str, Any]:
    shape, dtype, k = shapes(draw), draw(st.sampled_from(FLOATS)), draw(st.sampled_from((3, 5, 7)))
    kernel = (k, 1) if draw(st.booleans()) else (1, k)
    return {
        "x": draw(tensors(shape, dtype)),
        "weight": draw(tensors((draw(st.integers(1, 5)), shape[1], *kernel), dtype)),
        "stride": draw(st.sampled_from((1, 2))),
        "relu": draw(st.booleans()),
    }


@st.composite
def for_dense_conv(draw: Draw) -> dict[str, Any]:
    shape, dtype, taps = shapes(draw), draw(st.sampled_from(FLOATS)), st.sampled_from((1, 3, 5))
    return {
        "x": draw(tensors(shape, dtype)),
        "weight": draw(tensors((draw(st.integers(1, 5)), shape[1], draw(taps), draw(taps)), dtype)),
        "stride": draw(st.sampled_from((1, 2, 4, (2, 1)))),
        "relu": draw(st.booleans()),
    }


@st.composite
def for_conv_norm(draw: Draw) -> dict[str, Any]:
    arguments = draw(for_dense_conv())
    n, _, height, width = arguments["x"].shape
    channels, dtype = len(arguments["weight"]), arguments["x"].dtype
    stride = arguments["stride"]
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    rest: dict[str, Any] = {"pool": draw(st.sampled_from((1, 2)))}
    if draw(st.booleans()):
        shape = (n, channels, -(-height // down), -(-width // across))
        rest = {"shortcut": draw(tensors(shape, dtype)), "gain": draw(tensors((), dtype))}
    return {**arguments, "norm": draw(norms(channels)), **rest}


@st.composite
def for_arch_weights(draw: Draw) -> dict[str, Any]:
    shape = draw(st.tuples(st.integers(0, 4), st.integers(1, 12)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16)))
    noisy = draw(st.booleans())
    odd = st.integers(-3, 14) | JUNK
    strange_boost = st.builds(ops.Boost, odd, st.floats() | JUNK, st.floats() | JUNK, odd, odd)
    fitting = st.just(ops.Boost(top_k=1, skip=-1, none=0))
    boosts = st.one_of(st.none(), st.none(), fitting, fitting, st.just(ops.Boost()), strange_boost)
    return {
        "logits": draw(tensors(shape, dtype)),
        "temperature": draw(st.sampled_from((0.1, 0.5, 1, 1.0, 1e-300)) | st.floats(1e-3, 10) | st.floats()),
        "hard": draw(st.booleans()),
        "boost": draw(boosts),
        "noise": draw(tensors(shape, torch.float32)) if noisy else None,
        "rng": None if noisy or draw(st.booleans()) else torch.tensor([draw(st.integers(0, 2**63 - 1)), 3]),
    }


@st.composite
def for_gumbel_noise(draw: Draw) -> dict[str, Any]:
    rng = torch.tensor([draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(-(2**63), 2**63 - 1))])
    return {"rng": rng, "layers": draw(st.integers(-1, 5)), "ops": draw(st.integers(-1, 5))}


def forward_and_backward(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Calls it and differentiates what can be differentiated."""
    outputs = [y for y in _tensors(function(**arguments)) if y.requires_grad]
    if outputs and not any(y.is_meta for y in outputs):
        torch.autograd.backward([y.float().sum() for y in outputs])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)


def _target(
    function: Callable[..., Any],
    right: st.SearchStrategy[dict[str, Any]],
    errors: Sequence[type[Exception]] = (TypeError, ValueError),
) -> Target:
    def check(arguments: dict[str, Any]) -> bool:
        return not refused(lambda: forward_and_backward(function, arguments), *errors)

    return Target(f"ops.{function.__name__}", calls(right), check)


def targets() -> list[Target]:
    """All of them."""
    return [
        _target(ops.mixed_sum, for_mixed_sum()),
        _target(ops.mixed_norm_sum, for_mixed_norm_sum()),
        _target(ops.norm_pool, for_norm_pool()),
        _target(ops.multi_depthwise, for_depthwise(pointwise=False)),
        _target(ops.separable, for_depthwise(pointwise=True)),
        _target(ops.pool_pair, for_pool_pair()),
        _target(ops.line_conv, for_line_conv()),
        _target(ops.dense_conv, for_dense_conv()),
        _target(ops.conv_norm, for_conv_norm()),
        _target(ops.arch_weights, for_arch_weights()),
        _target(ops.gumbel_noise, for_gumbel_noise()),
        _target(ops.linear, for_linear()),
        _target(ops.cross_entropy, for_cross_entropy(), (TypeError, ValueError, IndexError)),
        _target(ops.total_norm, for_total_norm()),
        _target(ops.sgd, for_sgd()),
    ]

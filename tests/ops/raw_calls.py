"""Right arguments for every registered operator, which are private, and hostile changes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype

OPERATORS = torch.ops.asose_fast


def table(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Finite values that are not all alike."""
    return torch.arange(1, torch.Size(shape).numel() + 1).reshape(shape).remainder(5).add(1).to(dtype)


def right_calls(
    dtype: torch.dtype = torch.float32, shape: tuple[int, int, int, int] = (2, 3, 6, 5)
) -> dict[str, dict[str, object]]:
    """Arguments by name of the operators, which they take, for images of a shape."""
    acc = accumulation_dtype(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    images, channels, height, width = shape
    down, across = (height + 1) // 2, (width + 1) // 2
    x, out = table(*shape, dtype=dtype), table(images, channels, down, across, dtype=dtype)
    plan = {"kernels": [3, 5], "dilations": [2, 1], "inputs": 2, "stride": 2, "relu": True, "affine": True}
    depthwise = {"xs": [x, x], "params": table(9 + 25 + 4, channels, dtype=acc)}
    separable = depthwise | {"pointwise": table(2, channels, channels, dtype=acc)}
    needs = {"need_x": [True, False]}
    norms = {"mean": table(2, channels), "rstd": table(2, channels)}
    gamma, tables = table(2, channels), table(2, 4, channels, dtype=acc)
    line = {"x": x, "weight": table(4, channels, 5, 1, dtype=dtype), "stride": 2, "vertical": True, "relu": True}
    noise = {"noise": None, "rng": torch.tensor([1, 2])}
    boost = {"temperature": 0.5, "hard": True, "top_k": 2, "amount": 0.5, "below": 0.9, "skip": 1, "none": 0}
    return {
        "arch_weights_fwd": {"logits": table(2, 4, dtype=wide), **noise, **boost},
        "arch_weights_bwd": {"grad": table(2, 4, dtype=wide), "soft": table(2, 4, dtype=wide), "temperature": 0.5},
        "batch_statistics": {"zs": [x, x]},
        "mixed_sum_fwd": {"xs": [x, x, x], "weights": table(3, dtype=acc)},
        "mixed_sum_bwd": {
            "grad": x, "xs": [x, x], "weights": table(2, dtype=acc), "need_x": [True, False], "need_weights": True
        },
        "mixed_norm_sum_fwd": {
            "xs": [x, x, x], "weights": table(3, dtype=acc), "gamma": gamma, "beta": None, **norms
        },
        "mixed_norm_sum_bwd": {
            "grad": x, "xs": [x, x], "weights": table(3, dtype=acc), "gamma": gamma, **norms,
            "batch": [True, False], "read": [True, False, True], "need_x": [True, True, False], "need_sums": True,
            "channels_last": False,
        },
        "pool_pair_fwd": {"x": x, "stride": 2},
        "pool_pair_bwd": {
            "grads": [out, out], "zs": [out, None], "tables": tables, "x": x, "stride": 2,
            "terms": [x], "factors": table(1, dtype=acc),
        },
        "line_conv_fwd": line,
        "line_conv_bwd": {
            "grad": table(images, 4, down, width, dtype=dtype), **line, "need_x": True, "need_weight": True
        },
        "multi_depthwise_fwd": depthwise | plan,
        "multi_depthwise_bwd": {
            "grads": [out, None], **depthwise, **plan, **needs, "need_weights": True, "need_affine": True
        },
        "separable_fwd": {**separable, **plan, "statistics": True},
        "separable_bwd": {
            "grads": [out, None], "zs": [out, None], "tables": tables, **separable, **plan, **needs,
            "need_depthwise": True, "need_pointwise": True, "need_affine": True,
        },
    }  # fmt: skip


def call(name: str, arguments: dict[str, object]) -> object:
    """Runs an operator through the dispatcher."""
    return getattr(OPERATORS, name)(*arguments.values())


def freed(x: Tensor) -> Tensor:
    """Like x, but its storage was given back."""
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def cut_short(x: Tensor) -> Tensor:
    """Like x, but its storage ends before its last element."""
    x = x.clone()
    x.untyped_storage().resize_(max(x.untyped_storage().nbytes() - x.element_size(), 0))
    return x


def other_tensors(x: Tensor) -> list[Tensor]:
    """What no operator takes in the place of x."""
    long = torch.cat([x, x[:1]]) if x.dim() else x[None]
    return [
        x.flatten()[:-1],
        long,
        x[..., None],
        x.to(torch.int8),
        x.to(torch.complex64),
        x.to("meta"),
        x.to_sparse(),
        freed(x),
        cut_short(x),
    ]


def hostile(arguments: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    """The arguments with one of them, which is named, replaced by what few operators take in its place."""
    found: list[tuple[str, dict[str, object]]] = []
    for name, value in arguments.items():
        others: list[object] = []
        if isinstance(value, Tensor):
            others = list(other_tensors(value))
        elif isinstance(value, list):
            others = [value[:-1], value + value[:1], value * 70, []]
            for i, item in enumerate(value):
                if isinstance(item, Tensor):
                    others += [[*value[:i], other, *value[i + 1 :]] for other in other_tensors(item)]
            if name in ("kernels", "dilations"):
                others += [[bad] * len(value) for bad in (0, -1, -(2**62), 2**62)]
        elif name in ("stride", "inputs"):
            others = [0, -1, 3, 2**31, 2**62, -(2**62)]
        found += [(name, arguments | {name: other}) for other in others]
    return found

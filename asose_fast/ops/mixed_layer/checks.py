"""What a mixed layer asks of its arguments before a kernel sees them. Each raises TypeError or ValueError."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from asose_fast.ops.autocast import autocasts
from asose_fast.ops.checks import check_tensor
from asose_fast.ops.dense import Dense
from asose_fast.ops.dense_conv import check_convolution
from asose_fast.ops.depthwise_plan import MAX_BRANCHES
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.mixed_layer.plan import Stage
from asose_fast.ops.mixed_sum import MAX_INPUTS
from asose_fast.ops.norms import check_norm


def check_modules(
    x: Tensor,
    chains: Sequence[Sequence[Stage]],
    stride: int,
    pools: Sequence[nn.BatchNorm2d],
    dense: Sequence[Sequence[nn.Conv2d]] = (),
) -> None:
    """That chains, the norms of pools and dense branches are for x, in a layer of this stride."""
    check_tensor("mixed_layer: x", x)
    if x.dtype not in FLOATS:
        raise TypeError(f"mixed_layer: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"mixed_layer: x must be (N, C, H, W) with C, H, W > 0, got {tuple(x.shape)}")
    if stride not in (1, 2):
        raise ValueError(f"mixed_layer: stride must be 1 or 2, got {stride}")
    lengths = [len(chain) for chain in chains]
    if lengths != sorted(lengths, reverse=True):
        raise ValueError(f"mixed_layer: the longest chains must come first, got lengths {lengths}")
    if 0 in lengths:
        raise ValueError(f"mixed_layer: chains must have a stage or more each, got lengths {lengths}")
    if len(chains) > MAX_BRANCHES:
        raise ValueError(f"mixed_layer: chains must be at most {MAX_BRANCHES}, got {len(chains)}")
    if len(pools) not in (0, 2):
        raise ValueError(f"mixed_layer: pools must hold the norms of an average and a maximum, got {len(pools)} norms")
    channels = x.shape[1]
    for k, chain in enumerate(chains):
        for depth, (depthwise, pointwise, norm) in enumerate(chain):
            where = f"mixed_layer: chains[{k}][{depth}]"
            kernel = depthwise.kernel_size[0]
            for name, weight, shape in (
                ("depthwise", depthwise.weight, (channels, 1, kernel, kernel)),
                ("pointwise", pointwise.weight, (channels, channels, 1, 1)),
            ):
                check_tensor(f"{where}.{name}.weight", weight)
                if weight.shape != shape:
                    raise ValueError(f"{where}.{name}.weight must be {shape} for x, got {tuple(weight.shape)}")
                if not weight.is_floating_point():
                    raise TypeError(f"{where}.{name}.weight must be a floating tensor, got {weight.dtype}")
                if weight.device != x.device:
                    raise ValueError(f"{where}.{name}.weight is on {weight.device}, x on {x.device}")
            check_norm(f"{where}.norm", norm, x, "x has")
    for p, norm in enumerate(pools):
        check_norm(f"mixed_layer: pools[{p}]", norm, x, "x has")
    out = (*x.shape[:2], *(-(-side // stride) for side in x.shape[2:]))
    for k, convs in enumerate(dense):
        where = f"mixed_layer: dense[{k}]"
        made: tuple[int, ...] = tuple(x.shape)
        for i, conv in enumerate(convs):
            options = Dense.of_module(conv, relu=False)
            check_convolution(f"{where}[{i}]", x.new_empty(1).expand(made), conv.weight, options)
            made = options.shape_for(made, conv.weight.shape)
        if made != out:
            raise ValueError(f"{where} gives the shape {made}, must give {out}")


def check_terms(
    x: Tensor,
    stride: int,
    branches: int,
    dense: int,
    weights: Tensor,
    zs: Sequence[Tensor],
    norms: Sequence[nn.BatchNorm2d],
    plain: Sequence[Tensor],
    plain_weights: Tensor | None,
    tracked: Sequence[bool] | None,
) -> None:
    """That the other arguments go with x and `branches` chains, pools and dense ones, which the last `dense` are."""
    if len(norms) != dense + len(zs):
        raise ValueError(
            f"mixed_layer: norms must hold one module a dense branch and z, got {len(norms)} for {dense} and {len(zs)}"
        )
    count = branches + len(zs)
    if not count or count + len(plain) > MAX_INPUTS:
        raise ValueError(
            f"mixed_layer: chains, pools, dense and zs must be 1 or more, with plain at most {MAX_INPUTS}, "
            f"got {count} and {len(plain)}"
        )
    for name, values, size in (("weights", weights, count), ("plain_weights", plain_weights, len(plain))):
        if values is None:
            continue
        check_tensor(f"mixed_layer: {name}", values)
        of_all = plain_weights is None and values.shape == (count + len(plain),)
        if values.shape != (size,) and not of_all:
            raise ValueError(f"mixed_layer: {name} must be ({size},), one a term, got {tuple(values.shape)}")
        if not values.is_floating_point():
            raise TypeError(f"mixed_layer: {name} must be floating, got {values.dtype}")
        if values.device != x.device:
            raise ValueError(f"mixed_layer: {name} are on {values.device}, x on {x.device}")
    if tracked is not None and len(tracked) != branches:
        raise ValueError(
            f"mixed_layer: tracked must be {branches}, one a chain, pool or dense branch, got {len(tracked)}"
        )
    for k, norm in enumerate(norms[:dense]):
        check_norm(f"mixed_layer: norms[{k}]", norm, x, "x has")
    if not zs and not plain:
        return
    shape = (*x.shape[:2], *(-(-side // stride) for side in x.shape[2:])) if branches else None
    for name, terms in (("zs", zs), ("plain", plain)):
        for i, term in enumerate(terms):
            check_tensor(f"mixed_layer: {name}[{i}]", term)
            shape = term.shape if shape is None else shape
            if term.shape != shape or term.dim() != 4:
                raise ValueError(
                    f"mixed_layer: {name}[{i}] must have the shape of the output, {tuple(shape)}, "
                    f"got {tuple(term.shape)}"
                )
            if term.dtype != x.dtype and not (term.is_floating_point() and autocasts(x)):
                raise TypeError(f"mixed_layer: {name}[{i}] must be of the dtype of x, {x.dtype}, got {term.dtype}")
            if term.device != x.device:
                raise ValueError(f"mixed_layer: {name}[{i}] is on {term.device}, x on {x.device}")
    for k, (norm, z) in enumerate(zip(norms[dense:], zs, strict=True), dense):
        check_norm(f"mixed_layer: norms[{k}]", norm, z, "its z has")

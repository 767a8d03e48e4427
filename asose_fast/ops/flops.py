"""What the operators count in `torch.utils.flop_counter.FlopCounterMode`: the convolutions that they stand for, and
products of matrices.

Those are counted as PyTorch counts its own, so that a fused layer counts what its modules do. One thing is more:
backward of `separable`, `stage` and `separable_norm` computes the depthwise outputs again that PyTorch keeps.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from asose_fast.ops.depthwise_plan import DepthwisePlan, plan_of

COUNTER = "torch.utils.flop_counter"

Shape = Sequence[int]


def _forward(x: Shape, weight: Shape, y: Shape, groups: int = 1) -> int:
    count = _formula("convolution")(x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups, out_val=y)
    return int(count)


def _backward(grad: Shape, x: Shape, weight: Shape, needs: Sequence[bool], groups: int = 1) -> int:
    """`needs`: whether the gradients of x and of weight are computed."""
    count = _formula("convolution_backward")(
        grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups, [*needs, False], out_val=(x, weight, None)
    )
    return int(count)


def _formula(name: str) -> Callable[..., int]:
    formula: Callable[..., int] = importlib.import_module(COUNTER).flop_registry[getattr(torch.ops.aten, name)]
    return formula


def _depthwise(x: Shape, plan: DepthwisePlan) -> list[tuple[Shape, Shape]]:
    """The shapes of weight and output of every branch."""
    n, channels, height, width = x
    y = n, channels, (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1
    return [((channels, 1, k, k), y) for k in plan.kernels]


def multi_depthwise_fwd(xs: list[Shape], params: Shape, *plan: Any, out_shape: Any) -> int:
    """The operations of the forward pass."""
    x = xs[0]
    return sum(_forward(x, weight, y, x[1]) for weight, y in _depthwise(x, plan_of(plan)))


def multi_depthwise_bwd(grads: list[Shape | None], xs: list[Shape], params: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the gradients that are needed, for the branches that have one."""
    *values, need_x, need_weights, need_affine = rest
    plan, x, count = plan_of(values), xs[0], 0
    for b, (weight, y) in enumerate(_depthwise(x, plan)):
        if grads[b] is not None:
            needs = need_x[b if plan.inputs > 1 else 0] or need_affine, need_weights
            count += _backward(y, x, weight, needs, x[1])
    return count


def separable_fwd(xs: list[Shape], params: Shape, pointwise: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the forward pass, depthwise and pointwise."""
    *values, _ = rest
    x = xs[0]
    return sum(
        _forward(x, weight, y, x[1]) + _forward(y, _pointwise(x), y) for weight, y in _depthwise(x, plan_of(values))
    )


def separable_bwd(
    grads: list[Shape | None],
    zs: list[Shape | None],
    tables: Shape,
    xs: list[Shape],
    params: Shape,
    pointwise: Shape,
    *rest: Any,
    out_shape: Any,
) -> int:
    """The operations of such gradients; that of pointwise takes the depthwise outputs, which are computed again."""
    *values, need_x, need_depthwise, need_pointwise, need_affine = rest
    plan, x, count = plan_of(values), xs[0], 0
    for b, (weight, y) in enumerate(_depthwise(x, plan)):
        if grads[b] is None:
            continue
        need_input = need_x[b if plan.inputs > 1 else 0] or need_affine
        count += _backward(y, y, _pointwise(x), (need_input or need_depthwise, need_pointwise))
        count += _backward(y, x, weight, (need_input, need_depthwise), x[1])
        if need_pointwise:
            count += _forward(x, weight, y, x[1])
    return count


def stage_fwd(xs: list[Shape], depthwise: list[Shape], pointwise: list[Shape], *rest: Any, out_shape: Any) -> int:
    """The operations of the forward pass, those of `separable`."""
    mean, *_, dilations, stride, statistics = rest
    plan = DepthwisePlan(tuple([w[-1] for w in depthwise]), dilations, len(xs), stride, True, mean is not None)
    return separable_fwd(xs, (), (), *plan, statistics, out_shape=out_shape)


def stage_bwd(
    grads: list[Shape | None],
    zs: list[Shape | None],
    tables: Shape,
    xs: list[Shape],
    params: Shape,
    matrices: Shape,
    depthwise: list[Shape],
    pointwise: list[Shape],
    *rest: Any,
    out_shape: Any,
) -> int:
    """The operations of the gradients, those of `separable` but for depthwise outputs that were kept."""
    mean, *_, dilations, stride, need_x, need_depthwise, need_pointwise, need_sums, ys = rest
    plan = DepthwisePlan(tuple([w[-1] for w in depthwise]), dilations, len(xs), stride, True, mean is not None)
    needs = need_x, any(need_depthwise), any(need_pointwise), need_sums
    count = separable_bwd(grads, zs, tables, xs, params, matrices, *plan, *needs, out_shape=out_shape)
    if ys and any(need_pointwise):
        x = xs[0]
        used = [of for grad, of in zip(grads, _depthwise(x, plan), strict=True) if grad is not None]
        count -= sum(_forward(x, weight, y, x[1]) for weight, y in used)
    return count


def _pointwise(x: Shape) -> Shape:
    return x[1], x[1], 1, 1


def line_conv_fwd(x: Shape, weight: Shape, *line: Any, out_shape: Shape) -> int:
    """The operations of the forward pass."""
    return _forward(x, weight, out_shape)


def line_conv_bwd(grad: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the gradients that are needed."""
    *_, need_x, need_weight = rest
    return _backward(grad, x, weight, (need_x, need_weight))


def dense_conv_fwd(x: Shape, weight: Shape, *conv: Any, out_shape: Shape) -> int:
    """The operations of the forward pass."""
    return _forward(x, weight, out_shape)


def dense_conv_bwd(grad: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the gradients that are needed."""
    *_, need_x, need_weight = rest
    return _backward(grad, x, weight, (need_x, need_weight))


def conv_norm_fwd(x: Shape, weight: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the forward pass."""
    return _forward(x, weight, out_shape[1])


def conv_norm_bwd(grad: Shape, x: Shape, weight: Shape, z: Shape, *rest: Any, out_shape: Any) -> int:
    """The operations of the gradients that are needed."""
    *_, need_x, need_weight, _, _, _ = rest
    return _backward(z, x, weight, (need_x, need_weight))


def separable_norm_fwd(x: Shape, depthwise: list[Shape], *rest: Any, out_shape: Any) -> int:
    """The operations of the forward pass, depthwise and pointwise of every stage."""
    y, count = out_shape[0], 0
    for s, weight in enumerate(depthwise):
        count += _forward(y if s else x, weight, y, x[1]) + _forward(y, _pointwise(x), y)
    return count


def separable_norm_bwd(grad: Shape, x: Shape, depthwise: list[Shape], *rest: Any, out_shape: Any) -> int:
    """The operations of the gradients that are needed, and of the depthwise outputs where they were not kept."""
    *_, need_x, _, _, need_depthwise, need_pointwise, need_affine = rest
    ys = rest[7]
    handed_on, count = need_x, 0
    for s, weight in enumerate(depthwise):
        given = grad if s else x
        handed_on = handed_on or (s > 0 and need_affine[s - 1])
        count += _backward(grad, grad, _pointwise(x), (handed_on or need_depthwise[s], need_pointwise[s]))
        count += _backward(grad, given, weight, (handed_on, need_depthwise[s]), x[1])
        if need_pointwise[s] and not ys[0]:
            count += _forward(given, weight, grad, x[1])
        handed_on = handed_on or need_depthwise[s] or need_pointwise[s]
    return count


def pointwise_fwd(x: Shape, weights: list[Shape], stride: int, *, out_shape: Shape) -> int:
    """The operations of the forward pass."""
    n, _, height, width = out_shape
    return sum(_forward((n, w[1], height, width), w, (n, w[0], height, width)) for w in weights)


def pointwise_bwd(
    grad: Shape, x: Shape, weights: list[Shape], stride: int, need_x: bool, need_weights: bool, *, out_shape: Any
) -> int:
    """The operations of the gradients that are needed."""
    n, _, height, width = grad
    needs = need_x, need_weights
    return sum(_backward((n, w[0], height, width), (n, w[1], height, width), w, needs) for w in weights)


def linear_fwd(x: Shape, weight: Shape, *bias: Any, out_shape: Shape) -> int:
    """The operations of the forward pass."""
    return _product(x, weight)


def linear_bwd(
    grad: Shape, x: Shape, weight: Shape, need_x: bool, need_weight: bool, need_bias: bool, *, out_shape: Any
) -> int:
    """The operations of the gradients that are needed."""
    return (need_x + need_weight) * _product(x, weight)


def _product(x: Shape, weight: Shape) -> int:
    return int(_formula("mm")(x, weight[::-1]))


FORMULAS = (
    multi_depthwise_fwd,
    multi_depthwise_bwd,
    separable_fwd,
    separable_bwd,
    stage_fwd,
    stage_bwd,
    line_conv_fwd,
    line_conv_bwd,
    dense_conv_fwd,
    dense_conv_bwd,
    conv_norm_fwd,
    conv_norm_bwd,
    separable_norm_fwd,
    separable_norm_bwd,
    pointwise_fwd,
    pointwise_bwd,
    linear_fwd,
    linear_bwd,
)
"""The formulas, named as their operators are; all others count nothing, like the sums, pools and norms of PyTorch."""


def register(counter: types.ModuleType) -> None:
    """Makes the formulas known to the imported flop counter."""
    for formula in FORMULAS:
        counter.register_flop_formula(getattr(torch.ops.asose_fast, formula.__name__))(formula)


def register_in_time() -> None:
    """Registers now where the flop counter is imported, else when it will be: importing it takes 0.1 s, Triton's."""
    if COUNTER in sys.modules:
        register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _Watch())


class _Watch(importlib.abc.MetaPathFinder):
    """Finds nothing but the flop counter, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: types.ModuleType) -> None:
                execute(module)
                register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random

PLAN = {"kernels": [3, 5], "dilations": [2, 1], "inputs": 2, "stride": 2, "relu": True, "affine": True}


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x, out = images.table(), images.table(*images.strided)
    tensors = {"xs": [x, x], "params": images.accumulated(9 + 25 + 4, images.channels)}
    needs = {"need_x": [True, False], "need_weights": True, "need_affine": True}
    return {
        "multi_depthwise_fwd": tensors | PLAN,
        "multi_depthwise_bwd": {"grads": [out, None], **tensors, **PLAN, **needs},
    }


def case(affine: bool, separable: bool = False) -> Case:
    """Two branches, with an affine map of an input each or of one input without."""
    weights = [random(2, 1, 3, 3), random(2, 1, 1, 1)]
    pointwise = [random(2, 2, 1, 1) for _ in range(2 * separable)]
    inputs = 1 + affine
    maps = [random(2, 2), random(2, 2)] if affine else []
    operator = ops.separable if separable else ops.multi_depthwise

    def run(*tensors: Tensor) -> list[Tensor]:
        xs, tensors = list(tensors[:inputs]), tensors[inputs:]
        given = [tensors[:2], tensors[2:4]] if separable else [tensors[:2]]
        options = {"scale": tensors[-2], "shift": tensors[-1]} if affine else {}
        return operator(xs if affine else xs[0], *given, dilations=[2, 1], **options)

    return run, [*(random(2, 2, 4, 3) for _ in range(inputs)), *weights, *pointwise, *maps], nn.ModuleList()


DIFFERENTIABLE = {"multi_depthwise": partial(case, False), "multi_depthwise affine": partial(case, True)}

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    rows, features = images.shape[:2]
    tensors = {"x": images.table(rows, features), "weight": images.table(4, features)}
    needs = {"need_x": True, "need_weight": True, "need_bias": True}
    return {
        "linear_fwd": {**tensors, "bias": images.table(4)},
        "linear_bwd": {"grad": images.table(rows, 4), **tensors, **needs},
    }


def case(*bias: Tensor) -> Case:
    def run(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return ops.linear(x, weight, *bias)

    return run, [random(3, 5), random(4, 5), *bias], nn.ModuleList()


DIFFERENTIABLE = {"linear": case, "linear bias": partial(case, random(4))}

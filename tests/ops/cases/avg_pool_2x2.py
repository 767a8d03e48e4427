from __future__ import annotations

from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    return {
        "avg_pool_2x2_fwd": {"x": images.table()},
        "avg_pool_2x2_bwd": {"grad": images.table(*images.strided), "shape": list(images.shape)},
    }


def case() -> Case:
    return ops.avg_pool_2x2, [random(2, 2, 3, 4)], nn.ModuleList()


DIFFERENTIABLE = {"avg_pool_2x2": case}

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x, out = images.table(), images.table(*images.strided)
    return {
        "pool_pair_fwd": {
            "x": x, "stride": 2, "need_avg": True, "need_max": True, "for_norms": False, "need_active": True
        },
        "pool_pair_bwd": {
            "grads": [out, out], "zs": [out, None], "tables": images.accumulated(2, 4, images.channels), "x": x,
            "stride": 2, "terms": [x, images.table()], "factors": images.accumulated(1), "rectified": 1, "places": None,
        },
    }  # fmt: skip


def case(function: Callable[..., object]) -> Case:
    return lambda x: function(x, stride=2), [random(2, 2, 5, 4)], nn.ModuleList()


DIFFERENTIABLE = {
    "pool_pair": partial(case, ops.pool_pair),
    "pool_3x3 average": partial(case, partial(ops.pool_3x3, maximum=False)),
    "pool_3x3 maximum": partial(case, partial(ops.pool_3x3, maximum=True)),
}

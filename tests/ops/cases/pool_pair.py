from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x, out = images.table(), images.table(*images.strided)
    return {
        "pool_pair_fwd": {"x": x, "stride": 2},
        "pool_pair_bwd": {
            "grads": [out, out], "zs": [out, None], "tables": images.accumulated(2, 4, images.channels), "x": x,
            "stride": 2, "terms": [x], "factors": images.accumulated(1),
        },
    }  # fmt: skip


def case() -> Case:
    return lambda x: ops.pool_pair(x, stride=2), [random(2, 2, 5, 4)], nn.ModuleList()


DIFFERENTIABLE = {"pool_pair": case}

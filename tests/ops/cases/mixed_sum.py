from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x = images.table()
    weights = {"weights": images.accumulated(2)}
    return {
        "mixed_sum_fwd": {"xs": [x, x, x], "weights": images.accumulated(3)},
        "mixed_sum_bwd": {"grad": x, "xs": [x, x], **weights, "need_x": [True, False], "need_weights": True},
    }


def case() -> Case:
    tensors = [random(3), *(random(2, 2, 3) for _ in range(2))]
    return lambda w, *xs: ops.mixed_sum([*xs, xs[0]], w), tensors, nn.ModuleList()


DIFFERENTIABLE = {"mixed_sum": case}

from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels, (n, _, height, width) = images.channels, images.strided
    operands = {"x": images.table(), "weights": [images.table(n, channels, 1, 1) for n in (2, 1)], "stride": 2}
    return {
        "pointwise_fwd": operands,
        "pointwise_bwd": {"grad": images.table(n, 3, height, width), **operands, "need_x": True, "need_weights": True},
    }


def reduction() -> Case:
    arguments = [random(2, 3, 5, 4), random(2, 3, 1, 1), random(1, 3, 1, 1)]
    return lambda x, even, odd: ops.pointwise(x, [even, odd], stride=2), arguments, nn.ModuleList()


def projection() -> Case:
    return lambda x, weight: ops.pointwise(x, [weight]), [random(2, 3, 5, 4), random(4, 3, 1, 1)], nn.ModuleList()


DIFFERENTIABLE = {"pointwise": projection, "pointwise stride 2": reduction}

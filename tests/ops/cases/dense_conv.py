from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    weight = images.table(4, images.channels, 3, 5)
    conv = {"x": images.table(), "weight": weight, "down": 2, "across": 2, "relu": True}
    n, _, height, width = images.strided
    grad = images.table(n, 4, height, width)
    return {
        "dense_conv_fwd": conv,
        "dense_conv_bwd": {"grad": grad, **conv, "need_x": True, "need_weight": True},
    }


def case() -> Case:
    tensors = [random(2, 2, 4, 5), random(3, 2, 3, 3)]
    return lambda x, w: ops.dense_conv(x, w, relu=True), tensors, nn.ModuleList()


def strided() -> Case:
    tensors = [random(2, 2, 4, 5), random(3, 2, 3, 1)]
    return lambda x, w: ops.dense_conv(x, w, stride=(2, 1)), tensors, nn.ModuleList()


DIFFERENTIABLE = {"dense_conv": case, "dense_conv strided": strided}

from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    weight = images.table(4, images.channels, 5, 1)
    line = {"x": images.table(), "weight": weight, "stride": 2, "vertical": True, "relu": True}
    n, _, height, _ = images.strided
    grad = images.table(n, 4, height, images.shape[3])
    return {
        "line_conv_fwd": line,
        "line_conv_bwd": {"grad": grad, **line, "need_x": True, "need_weight": True},
    }


def case() -> Case:
    tensors = [random(2, 2, 4, 5), random(3, 2, 1, 3)]
    return lambda x, w: ops.line_conv(x, w, stride=2, relu=True), tensors, nn.ModuleList()


DIFFERENTIABLE = {"line_conv": case}

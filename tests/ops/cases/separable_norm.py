from __future__ import annotations

import copy
from functools import partial

from torch import Tensor, nn

from asose_fast import ops
from asose_fast.ops.mixed_layer import Stage
from asose_fast.ops.reference.separable_norm import forward
from asose_fast.ops.separable_norm_call import Forward
from tests.ops.cases import Case, Images, random
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import KINDS, new_norm


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels, x = images.channels, images.table()
    tensors = {
        "x": x,
        "depthwise": [images.table(channels, 1, 3, 3), images.table(channels, 1, 5, 5)],
        "pointwise": [images.table(channels, channels, 1, 1) / 16 for _ in range(2)],  # for float16
        "shortcut": x,
        "gain": images.table(1)[0],
        "gamma": [images.accumulated(channels), None],
        "beta": [None, images.accumulated(channels)],
    }
    norms = {
        "running_mean": [images.accumulated(channels) for _ in range(2)],
        "running_var": [images.accumulated(channels) for _ in range(2)],
        "counts": [], "has_running": [True, True], "updates": [False, False], "of_batch": [False, False],
        "eps": [1e-5, 1e-3], "momenta": [0.1, 0.2],
    }  # fmt: skip
    plan = {"dilations": [2, 1], "stride": 1}
    needs = {"need_x": True, "need_shortcut": True, "need_gain": True}
    lists = {"need_depthwise": [True, True], "need_pointwise": [True, False], "need_affine": [True, True]}
    _, zs, tables, ys, params = forward(Forward(**copy.deepcopy({**tensors, **norms, **plan})))
    return {
        "separable_norm_fwd": {**tensors, **norms, **plan},
        "separable_norm_bwd": {
            "grad": x, **tensors, "zs": zs, "tables": tables, "ys": ys, "params": params,
            "of_batch": [False, False], **plan, **needs, **lists,
        },
    }  # fmt: skip


def stages(channels: int, *norms: nn.BatchNorm2d, stride: int = 1, dilation: int = 1) -> list[Stage]:
    """Stages with these norms, whose kernels and dilations differ."""
    found = []
    for s, norm in enumerate(norms):
        kernel, step = 3 + 2 * (s % 2), 1 if s else stride
        pad = dilation * (kernel // 2)
        depthwise = nn.Conv2d(channels, channels, kernel, step, pad, dilation, channels, bias=False)
        found.append(Stage(depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm))
    return found


def case(kind: str, blend: str) -> Case:
    chain = stages(2, *(new_norm(2, **KINDS[kind]) for _ in range(2)), stride=2 if blend == "strided" else 1)
    modules = nn.ModuleList([module for stage in chain for module in stage]).double()

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        if blend == "none":
            return ops.separable_norm(x, chain)
        if blend == "x":
            return ops.separable_norm(x, chain, shortcut=x, gain=rest[0])
        return ops.separable_norm(x, chain, stride=2, shortcut=rest[0], gain=rest[1])

    tensors = {"none": [], "x": [random()], "strided": [random(2, 2, 2, 2), random()]}
    return run, [random(2, 2, 3, 4), *tensors[blend]], modules


DIFFERENTIABLE = {
    f"separable_norm {blend} {kind}": partial(case, kind, blend) for kind in NORMS for blend in ("none", "x", "strided")
}

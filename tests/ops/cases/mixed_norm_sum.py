from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table
from tests.ops.test_mixed_layer import KINDS, new_norm

NORMS = ["affine", "eval", "plain"]


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x, channels = images.table(), images.channels
    norms = {"mean": table(2, channels), "rstd": table(2, channels)}
    gamma, weights = table(2, channels), {"weights": images.accumulated(3)}
    maxima: dict[str, object] = {"places": torch.full_like(x, 4, dtype=torch.uint8), "pooled": 2}
    return {
        "mixed_norm_sum_fwd": {"xs": [x, x, x], **weights, "gamma": gamma, "beta": None, **norms, **maxima},
        "mixed_norm_sum_bwd": {
            "grad": x, "xs": [x, x], **weights, "gamma": gamma, "beta": None, **norms,
            "batch": [True, False], "read": [True, False, True], "need_x": [True, True, False], "need_weights": True,
            "need_sums": True, "channels_last": False, **maxima,
        },
    }  # fmt: skip


def case(kind: str) -> Case:
    norms = nn.ModuleList(new_norm(2, **KINDS[kind]).double() for _ in range(2))

    def run(x: Tensor, weights: Tensor, plain_weights: Tensor, z: Tensor, plain: Tensor, *_: Tensor) -> Tensor:
        return ops.mixed_norm_sum([x, z], weights, list(norms), plain=[plain], plain_weights=plain_weights)

    return run, [random(2, 2, 3, 3), random(2), random(1), random(2, 2, 3, 3), random(2, 2, 3, 3)], norms


DIFFERENTIABLE = {f"mixed_norm_sum {kind}": partial(case, kind) for kind in NORMS}

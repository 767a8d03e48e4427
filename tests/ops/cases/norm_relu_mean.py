from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import KINDS, new_norm


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels, per_image = images.channels, images.shape[:2]
    tensors = {"x": images.table(), "gamma": images.accumulated(channels), "beta": None}
    running = {"running_mean": images.accumulated(channels), "running_var": images.accumulated(channels)}
    kept = {"tables": table(2, channels), "active": table(2, *per_image)}
    return {
        "norm_relu_mean_fwd": {
            **tensors, **running, "batches": torch.tensor(4), "of_batch": True, "eps": 1e-5, "momentum": 0.1
        },
        "norm_relu_mean_bwd": {
            "grad": images.table(*per_image), **tensors, **kept, "of_batch": True, "need_x": True, "need_affine": True
        },
    }  # fmt: skip


def case(kind: str | None) -> Case:
    norm = None if kind is None else new_norm(2, **KINDS[kind]).double()

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return ops.norm_relu_mean(x, norm)

    return run, [random(2, 2, 3, 3)], nn.ModuleList([] if norm is None else [norm])


DIFFERENTIABLE = {f"norm_relu_mean {kind}": partial(case, kind) for kind in (*NORMS, None)}

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import KINDS, new_norm


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    out = 4
    n, _, height, width = images.shape
    tensors = {"x": images.table(), "weight": images.table(out, images.channels, 3, 3)}
    blend = {"shortcut": images.table(n, out, height, width), "gain": images.table(1)[0]}
    affine = {"gamma": images.accumulated(out), "beta": None}
    running = {"running_mean": images.accumulated(out), "running_var": images.accumulated(out)}
    rest = {"down": 1, "across": 1, "relu": True, "pool": 1}
    needs = {"need_x": True, "need_weight": True, "need_shortcut": True, "need_gain": True, "need_affine": True}
    z = images.table(n, out, height, width)
    return {
        "conv_norm_fwd": {
            **tensors, **blend, **affine, **running, "batches": torch.tensor(4), "of_batch": True, "eps": 1e-5,
            "momentum": 0.1, **rest,
        },
        "conv_norm_bwd": {
            "grad": z, **tensors, "z": z, **blend, **affine, "tables": table(2, out), "of_batch": True, **rest, **needs
        },
    }  # fmt: skip


def case(kind: str, pool: int) -> Case:
    norm = new_norm(3, **KINDS[kind]).double()

    def run(x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
        return ops.conv_norm(x, weight, norm, relu=True, pool=pool)

    return run, [random(2, 2, 3, 4), random(3, 2, 3, 3)], nn.ModuleList([norm])


def blend(kind: str) -> Case:
    norm = new_norm(3, **KINDS[kind]).double()

    def run(x: Tensor, weight: Tensor, shortcut: Tensor, gain: Tensor, *_: Tensor) -> Tensor:
        return ops.conv_norm(x, weight, norm, stride=2, shortcut=shortcut, gain=gain)

    tensors = [random(2, 2, 3, 4), random(3, 2, 3, 3), random(2, 3, 2, 2), random()]
    return run, tensors, nn.ModuleList([norm])


DIFFERENTIABLE = {f"conv_norm {pool} {kind}": partial(case, kind, pool) for kind in NORMS for pool in (1, 2)} | {
    f"conv_norm blend {kind}": partial(blend, kind) for kind in NORMS
}

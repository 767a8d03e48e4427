from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import KINDS, new_norm


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels = images.channels
    tensors = {
        "z": images.table(), "shortcut": images.table(), "gain": images.table(1)[0],
        "gamma": images.accumulated(channels), "beta": None,
    }  # fmt: skip
    norms = {"tables": table(2, channels)}
    needs = {"need_z": True, "need_shortcut": True, "need_gain": True, "need_affine": True}
    running = {"running_mean": images.accumulated(channels), "running_var": images.accumulated(channels)}
    return {
        "norm_lerp_fwd": {
            **tensors, **running, "batches": torch.tensor(4), "of_batch": True, "eps": 1e-5, "momentum": 0.1
        },
        "norm_lerp_bwd": {"grad": images.table(), **tensors, **norms, "of_batch": True, **needs},
    }  # fmt: skip


def case(kind: str) -> Case:
    norm = new_norm(2, **KINDS[kind]).double()

    def run(z: Tensor, shortcut: Tensor, gain: Tensor, *_: Tensor) -> Tensor:
        return ops.norm_lerp(z, norm, shortcut, gain)

    return run, [random(2, 2, 3, 3), random(2, 2, 3, 3), random()], nn.ModuleList([norm])


DIFFERENTIABLE = {f"norm_lerp {kind}": partial(case, kind) for kind in NORMS}

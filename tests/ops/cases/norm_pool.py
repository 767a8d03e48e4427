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
    norms = {"gamma": images.accumulated(channels), "beta": None}
    running = {"running_mean": images.accumulated(channels), "running_var": images.accumulated(channels)}
    return {
        "norm_pool_fwd": {
            "z": images.table(), **norms, **running, "batches": torch.tensor(4), "of_batch": True, "eps": 1e-5,
            "momentum": 0.1, "pool": 2,
        },
        "norm_pool_bwd": {
            "grad": images.table(*images.strided), "z": images.table(), **norms, "tables": table(2, channels),
            "of_batch": True, "pool": 2, "need_z": True, "need_affine": True,
        },
    }  # fmt: skip


def case(kind: str, pool: int) -> Case:
    norm = new_norm(2, **KINDS[kind]).double()

    def run(z: Tensor, *_: Tensor) -> Tensor:
        return ops.norm_pool(z, norm, pool)

    return run, [random(2, 2, 3, 3)], nn.ModuleList([norm])


DIFFERENTIABLE = {f"norm_pool {pool} {kind}": partial(case, kind, pool) for kind in NORMS for pool in (1, 2)}

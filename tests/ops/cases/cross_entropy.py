from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    rows, classes = images.shape[:2]
    common = {"labels": torch.arange(rows) % classes, "smoothing": 0.1}
    return {
        "cross_entropy_fwd": {"scores": images.table(rows, classes), **common},
        "cross_entropy_bwd": {
            "grad": table(dtype=images.dtype), "probabilities": images.table(rows, classes).softmax(1), **common
        },
    }  # fmt: skip


def case(smoothing: float) -> Case:
    def run(scores: Tensor) -> Tensor:
        return ops.cross_entropy(scores, torch.tensor([1, 0, -100]), smoothing)[0]

    return run, [random(3, 4)], nn.ModuleList()


DIFFERENTIABLE = {f"cross_entropy {smoothing}": partial(case, smoothing) for smoothing in (0.0, 0.2)}

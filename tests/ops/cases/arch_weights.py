import torch
from torch import nn

from asose_fast import ops
from tests.ops.cases import Case, Images, random, table


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    noise = {"noise": None, "rng": torch.tensor([1, 2])}
    boost = {"temperature": 0.5, "hard": True, "top_k": 2, "amount": 0.5, "below": 0.9, "skip": 1, "none": 0}
    logits, grad, soft = (table(2, 4, dtype=dtype) for _ in range(3))
    return {
        "arch_weights_fwd": {"logits": logits, **noise, **boost},
        "arch_weights_bwd": {"grad": grad, "soft": soft, "temperature": 0.5},
    }


def case() -> Case:
    noise, boost = random(2, 4), ops.Boost(2, 0.5, 0.9, -1, -1)
    return (
        lambda logits: ops.arch_weights(logits, 0.7, hard=False, boost=boost, noise=noise).weights,
        [random(2, 4)],
        nn.ModuleList(),
    )


DIFFERENTIABLE = {"arch_weights": case}

"""`cross_entropy` in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS

DTYPES = FLOATS
IGNORED = -100
"""A label of rows that do not count."""


def loss(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The loss that `cross_entropy` computes, as PyTorch would."""
    return F.cross_entropy(scores, labels, label_smoothing=smoothing)


def reference(scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """What `cross_entropy` computes, as PyTorch would."""
    return loss(scores, labels, smoothing), (scores.argmax(1) == labels).sum()


def forward(scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, right ones and probabilities, as a backend."""
    return *reference(scores, labels, smoothing), scores.softmax(1).contiguous()


def backward(grad: Tensor, probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The gradient of the scores, as a backend."""
    counts, classes = labels != IGNORED, probabilities.shape[1]
    own = F.one_hot(labels.where(counts, 0), classes).to(probabilities.dtype)
    targets = own * (1 - smoothing) + smoothing / classes
    found = (probabilities - targets) * (grad / counts.sum())
    return found.where(counts[:, None], 0).to(grad.dtype)

"""What we compare with: corrected eager PyTorch, the same mathematics and the same gradients as ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.space import EvolvableBlock, Network


def eager_mixed_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum as it is usually written."""
    return sum(w * x for w, x in zip(weights, xs, strict=True))  # type: ignore[return-value]


def eager_arch_weights(logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
    """Boosted hard Gumbel-softmax layer by layer, with entropy and largest probability; gradients as they should be."""
    sampled = []
    for a in logits:
        p = a.softmax(0)
        entropy = -(p * p.clamp_min(1e-30).log()).sum()
        top = p.max(0)
        undecided = (top.indices != 3) & (top.values < 0.4)
        mask = torch.zeros_like(a).scatter(0, a.topk(3).indices, 1.0)
        mask[0] = 0.0
        boosted = a + 0.5 * mask * undecided
        noise = -torch.empty_like(a).exponential_().log()
        y = ((boosted + noise) / temperature).softmax(0)
        index = y.argmax()
        one_hot = torch.zeros_like(y).scatter(0, index[None], 1.0)
        sampled.append(one_hot + y - y.detach() + 0 * entropy.detach())
    return sampled


def _shortcut(block: EvolvableBlock, x: Tensor) -> Tensor:
    if block.spec.stride == 1:
        return x
    return F.avg_pool2d(x, block.spec.stride, ceil_mode=True, count_include_pad=False)


class EagerMixture(nn.Module):
    """A supernet's own modules in plain PyTorch, called like `Network`: with weights alone every candidate computed and
    every gradient taken, with a path only what the step needs, as plainly as that can be written. A derived network
    needs neither."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, weights: Tensor | None = None, path: Sequence[int] | None = None) -> Tensor:
        x = self.network.stem(x)
        for i, block in enumerate(self.network.evolvable_blocks()):
            ops = list(block.mixed.ops.values())
            if weights is None:
                y = ops[0 if path is None else path[i]](x)
            elif path is None:
                y = eager_mixed_sum([op(x) for op in ops], weights[i])
            else:  # the others' weights are 0, and so are their gradients
                y = eager_mixed_sum([op(x if k == path[i] else x.detach()) for k, op in enumerate(ops)], weights[i])
            y = torch.lerp(_shortcut(block, x), y, block.gain)
            x = y if block.project is None else block.project(y)
        scores: Tensor = self.network.head(x)
        return scores


class Autocast(nn.Module):
    """A model in bfloat16 wherever autocast takes it to be safe."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: object, **options: object) -> Tensor:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            scores: Tensor = self.model(*arguments, **options)
        return scores.float()

"""The stacked-branch plan of a mixed operation: its branches run together, on the fused operators (DESIGN section 5).

x -> multi_depthwise -> pointwise (-> norm_depthwise -> pointwise) -> mixed_norm_sum -> y
x -> pool_pair ---------------------------------------------------------^
x -> whatever else ends in a norm, up to that norm ---------------------^
x -> whatever is left, as it is ----------------------------------------^
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.ops import mixed_norm_sum, multi_depthwise, pool_pair
from asose_fast.ops.norm_depthwise import norm_depthwise
from asose_fast.ops.recompute import recomputed
from asose_fast.space.candidates import Zero

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Stage(NamedTuple):
    """ReLU, depthwise convolution, pointwise convolution, BN."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d


class Branches(NamedTuple):
    """The candidates of a mixed operation, under their indices, by what can be done with them.

    They are told by the exact types and settings of their modules, so that whatever computes something else, a module
    with hooks among them, is left as it is. Parameters and running statistics stay where they are, in the modules.
    """

    stride: int
    recompute: bool
    """Whether backward computes the outputs of depthwise convolutions again: less memory, more time."""
    separable: dict[int, list[Stage]]
    """Chains of stages, the first of the stride, the others of stride 1."""
    pools: dict[int, nn.BatchNorm2d]
    """The norms of an average and a maximum, in this order, or nothing."""
    normed: dict[int, tuple[nn.Sequential, nn.BatchNorm2d]]
    """Other chains that end in a norm, whole, and that norm."""
    others: dict[int, nn.Module]
    """The rest, without `none`: its term of the sum is 0, and so is the gradient of its weight."""

    @staticmethod
    def of(ops: Sequence[nn.Module], stride: int, recompute: bool = False) -> Branches:
        """Sorts the candidates of a mixed operation."""
        found = Branches(stride, recompute, {}, {}, {}, {})
        for k, op in enumerate(ops):
            if _is(op, nn.Sequential) and len(op) and _is(norm := op[-1], nn.BatchNorm2d):
                if stages := _stages(list(op), stride):
                    found.separable[k] = stages
                else:
                    found.normed[k] = op, norm
            elif not _is(op, Zero):
                found.others[k] = op
        pair = [[k for k, (op, _) in found.normed.items() if is_pool(op, stride)] for is_pool in (_is_avg, _is_max)]
        if all(pair):
            found.pools.update({k: found.normed.pop(k)[1] for k, *_ in pair})
        return found

    @property
    def folded(self) -> int:
        """How many candidates have their last norm folded into the sum."""
        return len(self.separable) + len(self.pools) + len(self.normed)

    def mix(
        self, x: Tensor, weights: Tensor, index: int | None, shortcut: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """sum_k w_k o_k(x) + v s: up to rounding what the modules give one by one, running statistics included.

        Args:
            x: (N, C, H, W); other layouts than channels_last are converted.
            weights: (K,); with `index` 0 for all candidates but that.
            index: the one candidate that hands gradients on to x and its parameters, or None for all of them.
            shortcut: s, in the shape of the result; left out without a share.
            share: scalar v, or None for 0.

        Returns:
            (N, C, ceil(H / stride), ceil(W / stride)), channels_last.
        """
        w = weights.unbind()
        terms = []
        for k, op in self.others.items():
            if share is not None and shortcut is x and _is(op, nn.Identity):
                share = share + w[k]  # one term less to read and to differentiate
            else:
                terms.append((run(op, x, tracked=index in (None, k)), w[k]))
        if shortcut is not None and share is not None:
            terms.append((shortcut, share))

        x = x.contiguous(memory_format=torch.channels_last)
        zs = self._separable(x, index) | self._pools(x, index)
        norms = {k: stages[-1].norm for k, stages in self.separable.items()} | self.pools
        for k, (op, norm) in self.normed.items():
            zs[k], norms[k] = run(list(op)[:-1], x, tracked=index in (None, k)), norm
        return mixed_norm_sum(
            list(zs.values()),
            torch.stack([w[k] for k in zs]),
            [norms[k] for k in zs],
            plain=[term for term, _ in terms],
            plain_weights=torch.stack([v for _, v in terms]) if terms else None,
        )

    def _separable(self, x: Tensor, index: int | None) -> dict[int, Tensor]:
        """The inputs of the last norms of the separable chains."""
        if not self.separable:
            return {}
        first = {k: stages[0] for k, stages in self.separable.items()}
        ys = multi_depthwise(x, _weights(first), dilations=_dilations(first), stride=self.stride)
        zs = self._pointwise(first, ys, index)
        depth = 1
        while deeper := {k: stages for k, stages in self.separable.items() if len(stages) > depth}:
            stage = {k: stages[depth] for k, stages in deeper.items()}
            norms = [stages[depth - 1].norm for stages in deeper.values()]
            ys = norm_depthwise([zs[k] for k in stage], norms, _weights(stage), dilations=_dilations(stage))
            zs |= self._pointwise(stage, ys, index)
            depth += 1
        return zs

    def _pointwise(self, stages: dict[int, Stage], ys: Sequence[Tensor], index: int | None) -> dict[int, Tensor]:
        with recomputed(ys) if self.recompute else nullcontext():
            return {
                k: run(stage.pointwise, y, tracked=index in (None, k))
                for (k, stage), y in zip(stages.items(), ys, strict=True)
            }

    def _pools(self, x: Tensor, index: int | None) -> dict[int, Tensor]:
        zs = pool_pair(x, stride=self.stride) if self.pools else ()
        return {k: z if index in (None, k) else z.detach() for k, z in zip(self.pools, zs, strict=True)}


def run(op: nn.Module | Sequence[nn.Module], x: Tensor, *, tracked: bool) -> Tensor:
    """The output of a candidate, or of its modules one after the other, outside autograd where it is not `tracked`."""
    y = x
    with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
        for module in [op] if isinstance(op, nn.Module) else op:
            y = module(y)
    return y if tracked else y.detach()  # skip_connect gives x itself, gradient and all


def _weights(stages: dict[int, Stage]) -> list[Tensor]:
    return [stage.depthwise.weight for stage in stages.values()]


def _dilations(stages: dict[int, Stage]) -> list[int]:
    return [stage.depthwise.dilation[0] for stage in stages.values()]


def _is(module: nn.Module, kind: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Whether a module does what its type says: no subclass, no parametrization, no hooks."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(hooks)


def _stages(chain: list[nn.Module], stride: int) -> list[Stage]:
    """The chain as stages, or nothing where it is something else."""
    stages: list[Stage] = []
    for first in range(0, len(chain), 4):
        if len(chain) < first + 4:
            return []
        relu, depthwise, pointwise, norm = chain[first : first + 4]
        if not (
            (_is(relu, nn.ReLU) and not relu.inplace)
            and (_is(depthwise, nn.Conv2d) and _is_depthwise(depthwise, 1 if stages else stride))
            and (_is(pointwise, nn.Conv2d) and _is_pointwise(pointwise))
            and _is(norm, nn.BatchNorm2d)
        ):
            return []
        stages.append(Stage(depthwise, pointwise, norm))
    return stages


def _is_depthwise(conv: nn.Conv2d, stride: int) -> bool:
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    pad = dilation * (kernel - 1) // 2
    return (
        kernel % 2 == 1
        and (conv.kernel_size, conv.dilation) == ((kernel, kernel), (dilation, dilation))
        and (conv.stride, conv.padding) == ((stride, stride), (pad, pad))
        and conv.in_channels == conv.out_channels == conv.groups
        and conv.bias is None
        and conv.padding_mode == "zeros"
    )


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        and conv.in_channels == conv.out_channels
        and conv.groups == 1
    )


def _is_avg(op: nn.Sequential, stride: int) -> bool:
    pool = op[0]
    return (
        _is(pool, nn.AvgPool2d)
        and len(op) == 2
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, stride, 1, False)
        and not pool.count_include_pad
        and pool.divisor_override is None
    )


def _is_max(op: nn.Sequential, stride: int) -> bool:
    pool = op[0]
    return (
        _is(pool, nn.MaxPool2d)
        and len(op) == 2
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, stride, 1, False)
        and pool.dilation == 1
        and not pool.return_indices
    )

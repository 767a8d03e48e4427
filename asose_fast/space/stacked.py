"""In the stacked-branch plan of a mixed operation, its branches run together on the fused operators (docs/kernels.md).

x -> separable chains and pools ------------------> mixed_layer -> y
x -> whatever else ends in a norm, up to that norm ---^
x -> whatever is left, as it is ----------------------^
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.dense_conv import has_kernels as has_dense_kernels
from asose_fast.ops.depthwise_plan import MAX_BRANCHES
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.line import Line
from asose_fast.ops.line_conv import has_kernels, line_conv
from asose_fast.ops.mixed_layer import Stage, mixed_layer
from asose_fast.ops.mixed_sum import mixed_sum
from asose_fast.ops.pointwise import pointwise
from asose_fast.ops.separable_norm import separable_norm
from asose_fast.ops.term_weights import SHORTCUT, term_weights
from asose_fast.space.candidates import FactorizedReduce, Zero
from asose_fast.space.exact import computes
from asose_fast.space.fit import Fit
from asose_fast.space.outputs import require_alike, require_shortcut, run
from asose_fast.space.parts import Part, on_kernels
from asose_fast.space.parts.conv_norm import ConvNorm, with_norm
from asose_fast.space.parts.convolution import ActiveDepthwise, Convolution
from asose_fast.space.parts.norm import Norm
from asose_fast.space.recognise import (
    is_average_pool,
    is_line,
    is_max_pool,
    is_reduction,
    is_relu,
    stages_of,
)

LARGE = 1 << 19
"""A tensor of so many elements is large."""
RELU = nn.ReLU()
"""It stands for that of an active branch."""


class Normed(NamedTuple):
    """This branch ends in a norm."""

    active: bool
    """An active branch begins with a ReLU, which `body` then leaves out."""
    body: Sequence[Part]
    """These run one after the other, up to the norm."""
    norm: nn.BatchNorm2d

    def on_kernels(self, x: Tensor, fit: Fit) -> Normed:
        """Returns the same branch on kernels, where x is one for them. A factorized reduction runs on
        `pointwise`, convolutions along one axis run on `line_conv` where it pays and `dense_conv` does not take them,
        the ReLU in the first of them, and all else as `parts.on_kernels` says."""
        for part in self.body:
            if isinstance(part, Halves) and part.fits(x, fit):
                return self._replace(body=[part.on_kernels])
        return self._on_lines(x, fit) or self._on_others()

    def dense(self, x: Tensor, fit: Fit, shape: torch.Size | None) -> list[nn.Conv2d] | None:
        """Returns the convolutions of a branch, on kernels, that rectifies x in a pass of its own, convolves that and
        makes a tensor of `shape`; None for others."""
        convs = [part for part in self.body if isinstance(part, Convolution)]
        if len(convs) != len(self.body) or [k for k, part in enumerate(convs) if part.active] != [0]:
            return None
        made = tuple(x.shape)
        for part in convs:
            if not fit.conv(part.conv, part.conv.out_channels, made[1], *part.conv.kernel_size):
                return None
            made = part.dense.shape_for(made, part.conv.weight.shape)
        if convs[0].takes_relu(x) or made != shape or not fit.norm(self.norm, made[1]):
            return None
        return [part.conv for part in convs]

    def _on_others(self) -> Normed:
        if not self.active:
            return self._replace(body=on_kernels(self.body))
        first, *rest = on_kernels([RELU, *self.body])
        return Normed(True, rest, self.norm) if first is RELU else Normed(False, [first, *rest], self.norm)

    def _on_lines(self, x: Tensor, fit: Fit) -> Normed | None:
        """Returns the branch on `line_conv`; None where it has another convolution, or where that does not pay or
        `dense_conv`, which has fewer products at seven taps, takes all."""
        convs = [part for part in self.body if is_line(part)]
        if not convs or len(convs) != len(self.body):
            return None
        widths = [x.shape[1], *(conv.out_channels for conv in convs)]
        if not all(
            fit.conv(conv, *pair[::-1], *conv.kernel_size)
            for conv, pair in zip(convs, itertools.pairwise(widths), strict=True)
        ):
            return None
        lines = [
            Line(max(conv.stride), conv.kernel_size[0] > 1, self.active and i == 0) for i, conv in enumerate(convs)
        ]
        if not all(has_kernels(x, line) for line in lines):
            return None
        if all(has_dense_kernels(x, conv.weight, Convolution(conv, False).dense) for conv in convs):
            return None
        body = [
            functools.partial(line_conv, weight=conv.weight, stride=line.stride, relu=line.relu)
            for conv, line in zip(convs, lines, strict=True)
        ]
        return Normed(False, body, self.norm)


class Halves:
    """This is a factorized reduction up to its norm."""

    def __init__(self, module: FactorizedReduce) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        return self.module.halves(x)

    def fits(self, x: Tensor, fit: Fit) -> bool:
        """Says whether `on_kernels` gives the same."""
        return all(fit.conv(conv, conv.out_channels, x.shape[1], 1, 1) for conv in (self.module.even, self.module.odd))

    def on_kernels(self, x: Tensor) -> Tensor:
        """Runs as one node of autograd."""
        return pointwise(x, [self.module.even.weight, self.module.odd.weight], stride=2)


class Branches(NamedTuple):
    """The branches are the candidates of a mixed operation, under their indices, by what can be done with them.

    They are told by the exact types and settings of their modules, so that whatever computes something else, a module
    with hooks or a `forward` of its own among them, is left as it is. Parameters and running statistics stay where they
    are, in the modules.
    """

    stride: int
    recompute: bool
    """Backward may compute the outputs of separable convolutions and pools again. That takes less memory and more
    time."""
    separable: dict[int, list[Stage]]
    """The first stage of a chain has the stride, and the others have stride 1."""
    pools: dict[int, nn.BatchNorm2d]
    """These are the norms of an average and a maximum, in this order, or nothing."""
    normed: dict[int, Normed]
    """These candidates end in a norm, and are neither separable nor pools."""
    others: dict[int, nn.Module]
    """These candidates are none of those above."""
    zeros: dict[int, Zero]
    """`none` of the stride is not run. Its term of the sum is 0, and so is the gradient of its weight."""

    @staticmethod
    def of(ops: Mapping[int, nn.Module], stride: int, recompute: bool = False) -> Branches:
        """Sorts candidates of a mixed operation, which are given by their indices."""
        found = Branches(stride, recompute, {}, {}, {}, {}, {})
        for k, op in ops.items():
            parts = list(op._modules.values()) if computes(op, nn.Sequential) else []
            if parts and computes(norm := parts[-1], nn.BatchNorm2d):
                if stages := stages_of(parts, stride):
                    found.separable[k] = stages
                else:
                    active = is_relu(parts[0])
                    found.normed[k] = Normed(active, parts[active:-1], norm)
            elif is_reduction(op):
                found.normed[k] = Normed(False, [Halves(op)], op.norm)
            elif computes(op, Zero) and op.stride == stride:
                found.zeros[k] = op
            else:
                found.others[k] = op
        pair = [
            [k for k, (_, body, _) in found.normed.items() if len(body) == 1 and is_pool(body[0], stride)]
            for is_pool in (is_average_pool, is_max_pool)
        ]
        if all(pair):
            found.pools.update({k: found.normed.pop(k).norm for k, *_ in pair})
        return found

    @property
    def _is_chain(self) -> bool:
        """Says whether a separable candidate is the only one."""
        return len(self.separable) == 1 and not (self.pools or self.normed or self.others or self.zeros)

    @property
    def folded(self) -> int:
        """Returns how many candidates have their last norm folded into the sum."""
        return len(self.separable) + len(self.pools) + len(self.normed)

    def up_to_norm(self, x: Tensor) -> tuple[Sequence[Part], ConvNorm | Norm] | None:
        """Returns what comes before the last part of the only candidate, on kernels, and that part, which ends in a
        norm; None where the candidate ends in something else."""
        if self.separable:
            (chain,) = self.separable.values()
            parts: list[Part] = []
            for depthwise, pointwise, norm in chain:
                parts += [ActiveDepthwise(depthwise), pointwise, norm]
            return parts[:-1], Norm(norm, [norm])
        if self.normed:
            (branch,) = self.normed.values()
            active, body, norm = branch.on_kernels(x, Fit.of(x))
            return with_norm([*([torch.relu] if active else []), *body], norm)
        return None

    def worthwhile(self, x: Tensor, blended: bool) -> bool:
        """Says whether stacking is the faster plan, by the rows of benchmarks/test_mixed_op.py.

        Several branches gain together. A lone one gains where it is separable, and others do where x is large, unless
        they are `blended` with a shortcut, which is a node with their last norm. On a GPU, where launches count, these
        are left to cuDNN; that is not measured.
        """
        if self.folded != 1:
            return self.folded > 1
        return bool(self.separable) or not (blended or x.is_cuda or x.numel() < LARGE)

    def fits(self, x: Tensor) -> bool:
        """Says whether the modules of chains and pools take x, and kernels with them. Where not, PyTorch says why."""
        fit, channels = Fit.of(x), x.shape[1]
        if not fit.takes(x) or self.stride not in (1, 2) or len(self.separable) > MAX_BRANCHES:
            return False
        norms = list(self.pools.values())
        for depthwise, matrix, norm in itertools.chain(*self.separable.values()):
            if not (
                fit.conv(depthwise, channels, 1, *depthwise.kernel_size) and fit.conv(matrix, channels, channels, 1, 1)
            ):
                return False
            norms.append(norm)
        if not all([fit.norm(norm, channels) for norm in norms]):
            return False
        norms += [branch.norm for branch in self.normed.values()]
        # The running statistics of a norm that is used again depend on the order.
        return len(norms) == 1 or len(set(map(id, norms))) == len(norms)

    def _shape(self, x: Tensor) -> torch.Size | None:
        """Returns the shape of what separable convolutions, pools and `none` give."""
        if not self.separable and not self.pools and not self.zeros:
            return None
        return x.shape[:2] + torch.Size(-(-side // self.stride) for side in x.shape[2:])

    def mix(
        self,
        x: Tensor,
        weights: Tensor | None,
        index: int | None,
        gain: Tensor | None = None,
        shortcut: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> Tensor:
        """Returns g * sum_k w_k o_k(x) + (1 - g) * s. Up to rounding this is what the modules give one by one, running
        statistics included.

        Args:
            x: (N, C, H, W); other layouts than channels_last are converted.
            weights: those of all candidates of the mixed operation; None for 1. With `index` 0 for all but that.
            index: the one candidate that hands gradients on to x and its parameters, or None for all of them.
            gain: scalar g, or None for 1.
            shortcut: s, in the shape of the result; left out without a gain.
            names: of the candidates, for errors.

        Returns:
            (N, C, ceil(H / stride), ceil(W / stride)), channels_last.
        """

        if weights is None and self._is_chain and not self.recompute:
            (chain,) = self.separable.values()
            if gain is None:
                return separable_norm(x, chain, stride=self.stride, checked=True)
            shortcut = x if shortcut is None else shortcut
            require_shortcut(shortcut, self._shape(x))
            return separable_norm(x, chain, stride=self.stride, shortcut=shortcut, gain=gain, checked=True)

        def name(k: int) -> str:
            return names[k] if names is not None else str(k)

        identity, terms, outputs = SHORTCUT, [], {}
        for k, op in self.others.items():
            if gain is not None and shortcut is x and identity == SHORTCUT and computes(op, nn.Identity):
                identity = k  # one term less to read and to differentiate
            else:
                outputs[name(k)] = run(op, x, tracked=index in (None, k), name=name(k))
                terms.append((outputs[name(k)], k))
        if shortcut is not None and gain is not None:
            terms.append((shortcut, SHORTCUT))
        fit, shape = Fit.of(x), self._shape(x)
        normed = {k: branch.on_kernels(x, fit) for k, branch in self.normed.items()}
        dense = {k: convs for k, branch in normed.items() if (convs := branch.dense(x, fit, shape)) is not None}
        zs, norms = {}, [normed[k].norm for k in dense]
        others = {k: branch for k, branch in normed.items() if k not in dense}
        for k, z, norm in _up_to_norms(others, x, fit, index, name):
            outputs[name(k)] = z
            if norm is None:
                terms.append((z, k))
            else:
                zs[k] = z
                norms.append(norm)
        shape = require_alike(outputs.items(), shape)
        if shortcut is not None and gain is not None:
            require_shortcut(shortcut, shape)
        chains = dict(sorted(self.separable.items(), key=lambda item: -len(item[1])))
        stacked = (*chains, *self.pools, *dense, *zs)
        if not stacked:
            terms += [(run(zero, x, tracked=False, name=name(k)), k) for k, zero in self.zeros.items()]
        order, acc = (*stacked, *(k for _, k in terms)), accumulation_dtype(x.dtype)
        wide = None if gain is None else gain.to(acc if weights is None else weights.dtype)
        of_terms = term_weights(weights, wide, order, identity, acc, x)
        if not stacked:
            return mixed_sum([term for term, _ in terms], of_terms)
        return mixed_layer(
            x,
            of_terms,
            list(chains.values()),
            stride=self.stride,
            pools=list(self.pools.values()),
            dense=list(dense.values()),
            zs=list(zs.values()),
            norms=norms,
            plain=[term for term, _ in terms],
            tracked=[index in (None, k) for k in (*chains, *self.pools, *dense)],
            recompute=self.recompute,
            checked=True,
        )


def _up_to_norms(
    normed: Mapping[int, Normed], x: Tensor, fit: Fit, index: int | None, name: Callable[[int], str]
) -> Iterator[tuple[int, Tensor, nn.BatchNorm2d | None]]:
    """Yields, for each of these branches, what comes before the norm, and the norm. Where kernels cannot take the norm
    or its input, it yields what the norm gives, and no norm."""
    actives = [k for k, branch in normed.items() if branch.active]
    with torch.set_grad_enabled(torch.is_grad_enabled() and (index is None or index in actives)):
        active = x.relu() if actives else x
    for k, branch in normed.items():
        tracked = index in (None, k)
        z = run(branch.body, active if branch.active else x, tracked=tracked, name=name(k))
        if fit.takes(z) and fit.norm(branch.norm, z.shape[1]):
            yield k, z, branch.norm
        else:
            yield k, run([branch.norm], z, tracked=tracked, name=name(k)), None

"""The mixed operation: K candidates on one input, and plans that run no more of them than a step needs."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asose_fast.bounds import Bounds, check_value
from asose_fast.ops import mixed_sum, registry
from asose_fast.ops.autocast import computing_dtype
from asose_fast.ops.autograd import once_differentiable, transformed
from asose_fast.ops.checks import check_tensor
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.mixed_layer import OPERATORS
from asose_fast.ops.mixed_sum import MAX_INPUTS
from asose_fast.ops.term_weights import SHORTCUT, term_weights
from asose_fast.ops.torch_faults import usual_gradient
from asose_fast.ops.tracing import recorded_sum, tracing
from asose_fast.space.candidates import Zero, build_candidate
from asose_fast.space.exact import classes_are_theirs, computes, told
from asose_fast.space.lone import blended
from asose_fast.space.outputs import require_alike, require_shortcut, run
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.stacked import Branches

HARD_SAMPLE = (
    "with weights and an index, a MixedOp runs the candidates beside the index outside autograd; "
    'have it run a mixture, by weights alone, as Config(estimator="soft") does'
)
LOGIT = Bounds(least=-1000, most=1000)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a mixed operation runs; the fields are the arguments of `MixedOp.forward`."""

    weights: Tensor | None = None
    index: int | None = None
    kept: tuple[int, ...] | None = None


@told
class MixedOp(nn.Module):
    """A choice between candidates: any modules that map a tensor x to tensors of one shape, under any names.

        self.mixed = MixedOp({"conv": nn.Conv1d(8, 8, 3, padding=1), "skip": nn.Identity()})

    y = sum_k w_k o_k(x) over the candidates o_k, blended with a shortcut s by a gain g where one is given:
    y = g * sum_k w_k o_k(x) + (1 - g) * s.

    What runs depends on what the step needs (docs/kernels.md):

    - sampled, `index`: the candidate `index` alone; the value and the weight gradients are those of a hard sample.
    - straight-through, both: all candidates; those whose weight is 0 contribute no gradient to x or to their parameters
      and run outside autograd. Gives `dL/dw_k = <dL/dy, o_k(x)>` for every k. A second derivative of it is refused, by
      RuntimeError: in what runs outside autograd it would be lost.
    - soft, `weights`: all candidates, all gradients.
    - some, `kept` besides: of either, only the candidates `kept`, the weights of the others counting as 0 and getting
      no gradient.

    All but the first run the candidates one by one or, with the same results up to rounding, as the stacked branches of
    `asose_fast.space.stacked`: always where `fused` is True, never where it is False, and where it pays with "auto".
    These keep less for backward with `memory` "recompute", and take longer. Whatever is not known there runs as it is
    and joins at the sum, and so does everything where x is not (N, C, H, W) or the candidates' modules do not take it,
    and while a graph is recorded (`torch.jit.trace`, the older ONNX exporter, `torch.fx`, `make_fx`).
    """

    plan: Plan | None = None
    """What runs where the caller does not say: set from outside, as by `asose_fast.search` and `Searcher`."""
    logits: Mapping[str, float] | None = None
    """The logits of these candidates begin at these values. The others are random, as the config says."""

    def __init__(
        self,
        ops: Mapping[str, nn.Module],
        *,
        stride: int | None = None,
        fused: bool | Literal["auto"] = "auto",
        memory: Literal["save", "recompute"] = "save",
        logits: Mapping[str, float] | None = None,
    ) -> None:
        """Raises TypeError or ValueError for candidates that are none, and for logits of others.

        Args:
            ops: the candidates by name, in the order of the logits.
            stride: of the fused candidates; None: as found in them.
            fused, memory: see the class.
            logits: see the attribute.
        """
        super().__init__()
        _check(ops)
        for name, value in (logits or {}).items():
            if name not in ops:
                raise ValueError(f"logits are of candidates, {', '.join(ops)}, got one of {name!r}")
            check_value(f"the logit of candidate {name!r}", value, float, LOGIT)
        self.ops = nn.ModuleDict(ops)
        self.stride = _stride(list(ops.values())) if stride is None else stride
        self.fused, self.memory, self.logits = fused, memory, logits

    @classmethod
    def named(
        cls,
        candidates: Sequence[str],
        channels: int,
        stride: int,
        *,
        fused: bool | Literal["auto"] = "auto",
        memory: Literal["save", "recompute"] = "save",
    ) -> MixedOp:
        """A choice between candidates known by name (`asose_fast.space.CANDIDATES`).

        Raises ValueError for an unknown candidate or none at all.
        """
        ops = {name: build_candidate(name, channels, stride) for name in candidates}
        return cls(ops, stride=stride, fused=fused, memory=memory)

    def __getstate__(self) -> dict[str, Any]:
        """Without the plan, which may be part of a graph that cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "plan"}

    def forward(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        index: int | None = None,
        kept: tuple[int, ...] | None = None,
        *,
        gain: Tensor | None = None,
        shortcut: Tensor | None = None,
    ) -> Tensor:
        """Runs one plan: that of the arguments or, without weights and index, that of `plan`.

        Raises ValueError where a candidate's output is of another shape than that of the others or no tensor, where
        a candidate changes x in place, and for arguments that are not as below (TypeError for those of another dtype).
        What a candidate does not take, its modules refuse themselves, in PyTorch's words and under every plan.

        Args:
            x: (N, C, H, W), or in any other shape that the candidates take.
            weights: (K,) architecture weights, float32 or float64; with `index`, a one-hot straight-through sample.
            index: the sampled candidate; may be left out where there is only one.
            kept: the candidates to run, each once, with `weights`; None: all. Has `index` in it where there is one.
            gain: scalar g, or None for g = 1.
            shortcut: s, in the shape of y; x itself where it is left out.
        """
        shortcut = x if shortcut is None else shortcut
        if weights is None and index is None and self.plan is not None:
            weights, index, kept = self.plan.weights, self.plan.index, self.plan.kept
        if tracing():
            return self._recorded(x, weights, index, kept, gain, shortcut)
        # The graphs of torch.compile are for one choice: it is not to take an index for a number that varies.
        index = None if index is None else _integer(index, "index must be an integer")
        kept = None if kept is None else tuple([_integer(k, "kept must be integers") for k in kept])
        if gain is not None and gain.dim():
            gain = gain.reshape(())
        if weights is None:
            op, k = self._candidate(index), index or 0
            if gain is not None:
                if shortcut is x and computes(op, nn.Identity) and classes_are_theirs():
                    return x
                if computes(op, Zero) and classes_are_theirs():
                    acc = accumulation_dtype(x.dtype)
                    return mixed_sum([shortcut], term_weights(None, gain.to(acc), [SHORTCUT], SHORTCUT, acc, x))
            branches = self._sorted(x, {k: op})
            if branches is not None and shortcut.dtype == x.dtype and self._pays(x, branches, gain is not None):
                return branches.mix(x, None, None, gain, shortcut)
            if gain is not None:
                return blended(op, x, gain, shortcut, branches)
            y: Tensor = run_on_kernels(op, x)
            if isinstance(y, Tensor) and y is not x:
                usual_gradient(y)
            return y
        names, ops = list(self.ops), list(self.ops.values())
        _check_choice(len(ops), x, weights, index, kept)
        chosen = tuple(range(len(ops))) if kept is None else tuple(dict.fromkeys(kept))
        if len(chosen) == 1 or transformed():
            index = None  # nothing is left out, or derivatives of any order are followed
        first_order = index is not None and weights.requires_grad
        if branches := self._stacked(x, {k: ops[k] for k in chosen}):
            y = branches.mix(x, weights, index, gain, shortcut, names)
            return once_differentiable(y, HARD_SAMPLE) if first_order else y
        outputs = {names[k]: run(ops[k], x, tracked=index in (None, k), name=names[k]) for k in chosen}
        shape = require_alike(outputs.items())
        terms, order = list(outputs.values()), chosen
        if gain is not None:
            gain = gain.to(weights.dtype)
            require_shortcut(shortcut, shape)
            # skip_connect gives x too, and torch.compile takes no tensor twice
            terms.append(shortcut.view_as(shortcut))
            order = (*chosen, SHORTCUT)
        y = mixed_sum(terms, term_weights(weights, gain, order, SHORTCUT, weights.dtype, x))
        return once_differentiable(y, HARD_SAMPLE) if first_order else y

    def running(self, index: int | None, weighted: bool) -> list[nn.Module] | None:
        """The modules that may run: all of them where there are weights, else those of candidate `index` or of the only
        one. None where `forward` is to say."""
        if weighted:
            return list(self.modules())
        candidates = list(self.ops.values())
        if index is None and self.plan is None and len(candidates) == 1:
            index = 0
        if type(index) is not int or not 0 <= index < len(candidates):
            return None
        return [self, self.ops, *candidates[index].modules()]

    def _recorded(
        self,
        x: Tensor,
        weights: Tensor | None,
        index: int | None,
        kept: tuple[int, ...] | None,
        gain: Tensor | None,
        shortcut: Tensor,
    ) -> Tensor:
        """What `forward` gives, for a graph of PyTorch's own operators: its candidates one by one, nothing checked."""
        if weights is None:
            y: Tensor = self._candidate(index)(x)
        else:
            ops = list(self.ops.values())
            chosen = range(len(ops)) if kept is None else dict.fromkeys(kept)
            y = recorded_sum([ops[k](x) for k in chosen], [weights[k] for k in chosen])
        return y if gain is None else gain * y + (1 - gain) * shortcut

    def _stacked(self, x: Tensor, ops: dict[int, nn.Module]) -> Branches | None:
        """The stacked branches of candidates, by their indices, where they are to be used."""
        branches = self._sorted(x, ops)
        return branches if branches is not None and self._pays(x, branches) else None

    def _sorted(self, x: Tensor, ops: dict[int, nn.Module]) -> Branches | None:
        """The branches of candidates, by their indices, where operators may be used."""
        if not self.fused or x.dim() != 4 or torch.compiler.is_compiling():
            return None
        if len(ops) >= MAX_INPUTS or not classes_are_theirs():
            return None
        return Branches.of(ops, self.stride, self.memory == "recompute")

    def _pays(self, x: Tensor, branches: Branches, blended: bool = False) -> bool:
        """Whether the branches can be stacked, and are to be; else a lone one is `blended` (`lone.blended`), or not."""
        if not branches.folded:
            return False
        if self.fused == "auto":
            if not branches.worthwhile(x, blended):
                return False
            # As plain PyTorch the fused operators are no faster than the modules.
            device, dtype = x.device.type, computing_dtype(x)
            if not all([registry.has_kernels(op, device, dtype) for op in OPERATORS]):
                return False
        return branches.fits(x)

    def _candidate(self, index: int | None) -> nn.Module:
        ops = list(self.ops.values())
        if index is None:
            if len(ops) > 1:
                raise ValueError(
                    f"a mixed operation of {len(ops)} candidates needs weights or the index of one: give them, or have "
                    "asose_fast.search or an asose_fast.Searcher choose"
                )
            index = 0
        if not 0 <= index < len(ops):
            raise ValueError(f"mixed operation: index must be one of {tuple(range(len(ops)))}, got {index}")
        return ops[index]


def _check(ops: Mapping[str, nn.Module]) -> None:
    if not isinstance(ops, Mapping):
        raise TypeError(
            f"a mixed operation needs its candidates as a dict of modules by name, got {type(ops).__name__}; "
            "those known by name are built by MixedOp.named"
        )
    if not ops:
        raise ValueError("a mixed operation needs at least one candidate")
    for name, op in ops.items():
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(f"candidates need names without dots that nn.ModuleDict does not use itself, got {name!r}")
        if not isinstance(op, nn.Module):
            raise TypeError(f"candidate {name!r} must be a module, got {type(op).__name__}")
    for name, op in ops.items():
        if twins := [other for other, module in ops.items() if module is op and other != name]:
            raise ValueError(f"candidates {name!r} and {twins[0]!r} are one and the same module")


def _check_choice(count: int, x: Tensor, weights: Tensor, index: int | None, kept: tuple[int, ...] | None) -> None:
    """Raises TypeError or ValueError for what chooses no candidates."""
    check_tensor("mixed operation: weights", weights)
    if weights.shape != (count,):
        raise ValueError(
            f"mixed operation: weights must be (K,) = ({count},), one a candidate, got {tuple(weights.shape)}"
        )
    if weights.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"mixed operation: weights must be float32 or float64, got {weights.dtype}")
    if weights.device != x.device:
        raise ValueError(f"mixed operation: weights are on {weights.device}, x is on {x.device}")
    if kept is not None and not (kept and all(0 <= k < count for k in kept)):
        raise ValueError(f"mixed operation: kept must be of candidates 0 to {count - 1}, one at least, got {kept}")
    if index is not None and index not in (kept or range(count)):
        raise ValueError(f"mixed operation: index must be one of {kept or tuple(range(count))}, got {index}")


def _integer(value: Any, wanted: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"mixed operation: {wanted}, got {type(value).__name__} {value!r}") from None


def _stride(ops: Iterable[nn.Module]) -> int:
    """The stride at which more candidates can be fused; any other gives the same results."""
    found = {stride: Branches.of(dict(enumerate(ops)), stride) for stride in (1, 2)}
    return max(
        found, key=lambda stride: len(found[stride].separable) + len(found[stride].pools) + len(found[stride].zeros)
    )

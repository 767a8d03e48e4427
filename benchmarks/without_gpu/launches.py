"""What a layer and a step launch on a GPU, and how many bytes they move: counted on tensors that have no values."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import jit

from asose_fast.config import CANDIDATES, SpaceConfig
from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import empty_channels_last, memory_format
from asose_fast.ops.triton.last_program import counters
from asose_fast.space import MixedOp, Network, NetworkSpec
from benchmarks.baselines import EagerMixture
from benchmarks.without_gpu.fake import fake_gpu
from benchmarks.without_gpu.kernels import BATCH, DTYPES, SIDE

_VIEWS = """
view _unsafe_view t unbind split split_with_sizes expand slice select permute transpose detach alias unsqueeze
squeeze as_strided empty empty_like new_empty empty_strided reshape unfold lift_fresh _reshape_alias set_data is_pinned
new_empty_strided"""
VIEWS = frozenset(_VIEWS.split())
"""Operators of PyTorch that launch nothing."""


@dataclasses.dataclass
class Launched:
    """What was launched, and what it moved."""

    names: Counter[str] = dataclasses.field(default_factory=Counter)
    moved: int = 0
    """Bytes that kernels read or write, each tensor once a kernel."""

    def launch(self, name: str, tensors: Iterable[Tensor], times: int = 1) -> None:
        self.names[name] += times
        self.moved += sum({id(t): t.numel() * t.element_size() for t in tensors}.values())

    @property
    def own(self) -> int:
        """Launches of our kernels."""
        return sum(count for name, count in self.names.items() if name.endswith("_kernel") or "depthwise" in name)

    def figures(self, tensor: int | None = None) -> dict[str, float]:
        """To be stored; `tensor`: bytes of the tensor in which the moved ones are counted, else in GB."""
        found: dict[str, float] = {"launches": self.names.total(), "own": self.own}
        if tensor is None:
            return found | {"gigabytes": round(self.moved / 1e9, 2)}
        return found | {"tensors": round(self.moved / tensor, 1)}


class _Operators(TorchDispatchMode):
    def __init__(self, counted: Launched) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function.overloadpacket.__name__
        if name == "convolution":
            result = _as_by_cudnn(result, *arguments[:2])
        if name not in VIEWS:
            # Each gradient of a convolution is a kernel. The last argument says which are wanted.
            times = sum(arguments[-1]) if name == "convolution_backward" else 1
            self.counted.launch(name, _tensors((arguments, keywords, result)), times)
        return result


def _as_by_cudnn(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The output of a convolution in the memory format of a GPU, where the meta device forgets channels_last."""
    if torch.channels_last in (memory_format(x), memory_format(weight)):
        return empty_channels_last(y, y.shape)
    return y


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _depthwise(counted: Launched) -> SimpleNamespace:
    """`multi_depthwise` as the launcher of the CUDA kernels, whose launches it counts."""

    def forward(
        xs: list[Tensor], params: Tensor, plan: DepthwisePlan, into: list[Tensor] | None = None
    ) -> list[Tensor]:
        ys = into or [empty_channels_last(xs[0], plan.out_shape(xs[0])) for _ in plan.kernels]
        counted.launch("multi_depthwise_fwd", [*xs, params, *ys])
        return ys

    def summands(
        grads: list[Tensor | None],
        xs: list[Tensor],
        params: Tensor,
        plan: DepthwisePlan,
        need_x: list[bool],
        need_weights: bool,
        need_affine: bool,
    ) -> tuple[list[Tensor], Tensor]:
        grad_xs = [empty_channels_last(x, x.shape) for x, need in zip(xs, need_x, strict=True) if need]
        read, (images, _, height, width) = [g for g in grads if g is not None], xs[0].shape
        slices = min(images * -(-height // 8) * -(-width // 8), 256) if need_weights or need_affine else 0
        partials, taps = params.new_empty(slices, *params.shape), sum(plan.taps)
        if any(need_x) or need_weights or need_affine:
            wanted = partials if need_weights else partials[:, taps:]
            counted.launch("multi_depthwise_bwd", [*read, *xs, params, *grad_xs, wanted])
        return grad_xs, partials

    def backward(*arguments: Any) -> tuple[list[Tensor], Tensor]:
        grad_xs, partials = summands(*arguments)
        if not len(partials):
            return grad_xs, partials
        counted.launch("multi_depthwise_bwd_sums", [partials, grad_params := torch.empty_like(partials[0])])
        return grad_xs, grad_params

    return SimpleNamespace(forward=forward, backward=backward, summands=summands)


def count(step: Callable[[], Tensor]) -> Launched:
    """Of a forward and backward pass, `step` being the former; inside `fake_gpu`, as a GPU with all kernels runs it."""
    counted = Launched()
    counters(torch.get_default_device(), 1)  # allocated at first use, and kept

    def kernel(self: Any, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **options: counted.launch(self.fn.__name__, _tensors(arguments))

    triton = registry.select
    depthwise = _depthwise(counted)

    def select(op: str, *details: Any) -> Any:
        return depthwise if op == "multi_depthwise" else triton(op, *details)

    with (
        patch.object(registry, "select", select),
        patch.object(jit.KernelInterface, "__getitem__", kernel),
        _Operators(counted),
    ):
        y = step()
        y.backward(torch.empty_like(y))
    return counted


def layer(dtype: torch.dtype, channels: int, stride: int = 1) -> Launched:
    """A mixed operation of all candidates within its block, forward and backward, with the gradients of a soft step."""
    with fake_gpu():
        mixed = MixedOp.named(tuple(CANDIDATES), channels, stride, fused=True)
        mixed = mixed.to(dtype, memory_format=torch.channels_last)
        x, shortcut = (_images(dtype, channels, SIDE // s) for s in (1, stride))
        weights, gain = torch.empty(len(CANDIDATES), requires_grad=True), torch.empty((), requires_grad=True)
        return count(lambda: mixed(x, weights, gain=gain, shortcut=x if stride == 1 else shortcut))


def steps(dtype: torch.dtype, channels: int) -> dict[str, Launched]:
    """The passes of a network of six layers, without the optimizer: ours, and eager PyTorch's in channels_last."""
    with fake_gpu():
        spec = NetworkSpec.chain(SpaceConfig(channels=channels, candidates=tuple(CANDIDATES)), 3, 10)
        network = Network(spec).to(dtype, memory_format=torch.channels_last)
        x = torch.empty(BATCH, 3, SIDE, SIDE, dtype=dtype, memory_format=torch.channels_last)
        mixture = torch.empty(6, len(CANDIDATES))
        alpha = torch.empty(6, len(CANDIDATES), requires_grad=True)
        passes: dict[str, Callable[[], Tensor]] = {
            "eager, soft": lambda: EagerMixture(network)(x, alpha),
            "ours, soft": lambda: network(x, mixture),
            "ours, sampled": lambda: network(x, None, path),
            "ours, alpha": lambda: network(x, alpha, path),
        }
        path, found = [k + 4 for k in range(6)], {}
        for name, run in passes.items():
            network.zero_grad()  # as a step begins: no gradient is added to another
            alpha.grad = None
            network.requires_grad_("alpha" not in name)
            found[name] = count(run)
    return found


def _images(dtype: torch.dtype, channels: int, side: int) -> Tensor:
    shape = (BATCH, channels, side, side)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last).requires_grad_()


def collect() -> dict[str, dict[str, float]]:
    """All counts, by what was counted."""
    found = {}
    for dtype, stride in itertools.product(("fp32", "bf16"), (1, 2)):
        tensor = BATCH * 64 * SIDE * SIDE * DTYPES[dtype].itemsize
        found[f"layer, stride {stride}, {dtype}"] = layer(DTYPES[dtype], 64, stride).figures(tensor)
    for dtype in ("fp32", "bf16"):
        found |= {f"{name}, {dtype}": one.figures() for name, one in steps(DTYPES[dtype], 64).items()}
    return found


def table(counts: dict[str, dict[str, float]]) -> list[list[str]]:
    """The counts as the rows of a page."""
    head = ["forward and backward pass", "launches", "of our kernels", "bytes moved"]
    rows = [
        [name, f"{c['launches']}", f"{c['own']}", f"{c['tensors']} T" if "tensors" in c else f"{c['gigabytes']} GB"]
        for name, c in counts.items()
    ]
    return [head, *rows]


BANDWIDTH, OF_LAUNCH, OF_HOST = 4.3e12, 2e-6, 8e-6
"""Assumed of an H200: bytes per second, seconds between two kernels of a graph, and of the host for a launch."""


def predictions(counts: dict[str, dict[str, float]]) -> list[list[str]]:
    """What the counts let expect of an H200: as a graph, bytes and launches one after the other; plainly, the host."""
    rows = [["pass", "predicted as a CUDA graph", "predicted without", "measured"]]
    for name, found in counts.items():
        if "gigabytes" in found:
            graph = found["gigabytes"] * 1e9 / BANDWIDTH + found["launches"] * OF_LAUNCH
            plain = max(graph, found["launches"] * OF_HOST)
            rows.append([name, f"{graph * 1e3:.1f} ms", f"{plain * 1e3:.1f} ms", "not measured"])
    return rows

"""Steps as CUDA graphs: what a step launches is recorded once, and replayed at the price of a few calls.

A graph replays the same kernels on the same addresses. What is recorded depends on what changes from step to step:

- A soft weight step, and one of a derived network, is one graph from the images to the updated weights. Images,
  classes, mixture and learning rate are read from tensors that are overwritten before each replay.
- An alpha step that runs all candidates is one graph from the images to dL/dw, w the architecture weights. The draw
  stays outside, since its temperature is an argument of its kernel, and so do Adam and the few kernels from dL/dw to
  alpha: any estimator can use the graph. It computes with w alone, as for a mixture; a weight of 0 hands on gradients
  of 0.
- A weight step on a sampled path has K^L forms: no cache of whole paths would hit before the search has all but ended,
  and PyTorch gives no access to the conditional nodes of CUDA graphs. So the network is recorded in segments, forward
  and backward: the stem, each candidate of each block with what surrounds it, the classifier. L + 2 replays a
  direction make up any path. Loss, clipping and SGD, a handful of multi-tensor kernels, are launched as ever.

The recordings take the memory of one soft step each. Noise needs no care: draws are outside, and dropout, where a
network has any, draws from torch's generator, whose offset follows the replays.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.config import RunConfig
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.processes import Processes
from asose_fast.engine.step.precision import Precision
from asose_fast.engine.step.steps import StepResult, alpha_step, architecture_gradient, classification, weight_step
from asose_fast.space.block import EvolvableBlock
from asose_fast.space.exact import computes
from asose_fast.space.network import Network
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.supernet import Supernet

Result = TypeVar("Result")

WARM_UP = 3
"""Plain steps before one is recorded: what is compiled, tuned or allocated at first use then has been."""


class Recorder:
    """Records on a stream of its own, and all whole steps in one pool of memory: no two of them ever overlap."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable[[], Result]) -> Result:
        """Takes the step on the stream that it will be recorded on."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = step()
        current.wait_stream(self._stream)
        return result

    def record(self, step: Callable[[], Result]) -> Callable[[], Result]:
        """A function that replays the step, not taken yet, and returns the tensors that it fills every time."""
        graph = torch.cuda.CUDAGraph()
        with (
            self._stream_kept(),
            # Another thread may pin memory for the data meanwhile.
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = step()

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def segments(self, parts: Sequence[nn.Module], samples: Sequence[Tensor]) -> Sequence[Callable[[Tensor], Tensor]]:
        """Modules of one input, in the order in which they may be called, as graphs of both directions. Their `forward`
        is replaced by that of the graphs."""
        with self._stream_kept():
            return torch.cuda.make_graphed_callables(  # type: ignore[return-value]
                tuple(parts), tuple((sample,) for sample in samples), allow_unused_input=True
            )

    @contextlib.contextmanager
    def _stream_kept(self) -> Iterator[None]:
        """A block after which the current stream is what it was, though a recording fails: `torch.cuda.graph` then
        stays on its own, and the plain steps that follow would be on a stream for which nobody waits."""
        with torch.cuda.stream(torch.cuda.current_stream(self._stream.device)):
            yield


def why_not(device: torch.device, processes: Processes) -> str | None:
    """Why steps cannot be recorded, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}, and graphs are of CUDA"
    if processes.count > 1:
        return f"they are for one process, and there are {processes.count}"
    return None


class GraphedSteps:
    """`weight_step` and `alpha_step`, recorded and replayed where they can be and plain where not.

    Plain are batches of another size than the configured one (the last of an epoch), sampled paths in networks of
    cells, and alpha steps of second order or of candidates that the draw leaves out.
    """

    def __init__(self, config: RunConfig, device: torch.device, processes: Processes) -> None:
        """Warns once where graphs are asked for and cannot be had."""
        self.batch_size, self.device = config.batch_size, device
        self.on = config.graphs == "auto"
        if self.on and (reason := why_not(device, processes)):
            self._give_up(reason)
        self._of: tuple[object, ...] | None = None
        self._recorder: Recorder | None = None
        self._whole: dict[tuple[object, ...], _Whole[Any]] = {}
        self._segments: Segments | None = None

    def begin(self, network: Supernet, phase: str) -> None:
        """Of an epoch: what was recorded of another network, of one that has grown since, or in another phase goes."""
        now = (network, network.spec, phase)
        if self.on and now != self._of:
            self._forget()
            self._of = now

    def _forget(self) -> None:
        self._whole, self._segments, self._recorder = {}, None, None

    def weight_step(
        self,
        network: Supernet,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Any,
        path: list[int] | None,
        *,
        mixture: Tensor | None = None,
        precision: Precision = "fp32",
        **options: Any,
    ) -> StepResult:
        """See `steps.weight_step`. y is a tensor, or a named tuple of some."""

        def plain(model: nn.Module = network) -> StepResult:
            return weight_step(model, optimizer, x, y, path, mixture=mixture, precision=precision, **options)

        if not self._applies(x):
            return plain()
        if mixture is None and path is not None:
            segments = self._segments_of(network, x, precision)
            return plain() if segments is None else plain(segments)
        inputs = [x, *([] if mixture is None else [mixture]), *(y if isinstance(y, tuple) else [y])]
        clip, objective = options.get("clip", 0.0), options.get("objective", classification)

        def step(x: Tensor, *rest: Tensor) -> StepResult:
            mixed, parts = (None, rest) if mixture is None else (rest[0], rest[1:])
            targets = type(y)(*parts) if isinstance(y, tuple) else parts[0]
            return weight_step(
                network, optimizer, x, targets, None, mixture=mixed, clip=clip, objective=objective, precision=precision
            )

        return self._replayed("weight", step, inputs, plain)

    def alpha_step(
        self,
        network: Supernet,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        draw: Draw,
        *,
        precision: Precision = "fp32",
        **options: Any,
    ) -> StepResult:
        """See `steps.alpha_step`."""
        draw = draw.on_host()
        if not self._applies(x) or draw.kept is not None or options.get("ahead") is not None:
            return alpha_step(network, optimizer, x, y, draw, precision=precision, **options)

        def gradient(x: Tensor, y: Tensor, weights: Tensor) -> tuple[StepResult, Tensor]:
            return architecture_gradient(
                network, x, y, weights, objective=options.get("objective", classification), precision=precision
            )

        def through(draw: Draw) -> tuple[StepResult, Tensor]:
            inputs = [x, y, draw.weights.detach()]
            return self._replayed("alpha", gradient, inputs, lambda: gradient(*inputs))

        return alpha_step(network, optimizer, x, y, draw, precision=precision, through=through, **options)

    def _applies(self, x: Tensor) -> bool:
        return self.on and len(x) == self.batch_size

    def _replayed(
        self, name: str, step: Callable[..., Result], inputs: Sequence[Tensor], plain: Callable[[], Result]
    ) -> Result:
        kind = (name, *((tensor.shape, tensor.dtype) for tensor in inputs))  # some batches are mixed, and others not
        whole = self._whole.setdefault(kind, _Whole())
        if not whole.warm:
            whole.warm_ups += 1
            return self._recording().warm_up(plain)
        if whole.replay is None:
            try:
                whole.record(self._recording(), step, inputs)
            except Exception as error:  # of PyTorch, of Triton's compiler or of a user's module
                self._give_up(f"recording the {name} step failed: {error}")
                return plain()
        result: Result = whole(inputs)
        return result

    def _segments_of(self, network: Supernet, x: Tensor, precision: Precision) -> Segments | None:
        if not isinstance(network, Network):
            return None
        if self._segments is None:
            try:
                self._segments = Segments(network, x, precision, self._recording())
            except Exception as error:
                self._give_up(f"recording the segments of the network failed: {error}")
        return self._segments

    def _recording(self) -> Recorder:
        if self._recorder is None:
            self._recorder = Recorder(self.device)
        return self._recorder

    def _give_up(self, reason: str) -> None:
        self.on = False
        self._forget()
        warnings.warn(f"graphs: auto runs plain steps: {reason}", RuntimeWarning, stacklevel=3)


class _Whole(Generic[Result]):
    """A step that is recorded as one graph, and the tensors that it reads its inputs from."""

    def __init__(self) -> None:
        self.warm_ups = 0
        self.replay: Callable[[], Result] | None = None
        self._inputs: list[Tensor] = []

    @property
    def warm(self) -> bool:
        return self.warm_ups == WARM_UP

    def record(self, recorder: Recorder, step: Callable[..., Result], inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self.replay = recorder.record(lambda: step(*self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> Result:
        assert self.replay is not None
        for target, tensor in zip(self._inputs, inputs, strict=True):
            target.copy_(tensor)
        result: Result = _own(self.replay())
        return result


def _own(result: Any) -> Any:
    """The result in tensors that the next replay does not overwrite."""
    if isinstance(result, Tensor):
        return result.clone()
    if isinstance(result, StepResult):
        return StepResult(*map(_own, result))
    return tuple(map(_own, result)) if isinstance(result, tuple) else result


class Path(Protocol):
    """Candidates by block."""

    def __getitem__(self, block: int, /) -> int: ...


class Segments(nn.Module):
    """A chain on sampled paths, in recorded parts: called like the network with a `path`.

    A subset of the parts, forward in their order and backward in the reverse, may share the memory of all: what one
    part leaves to another is only overwritten by parts that come after both were read when all were recorded. Warming
    the parts up leaves running statistics as they were.
    """

    def __init__(self, network: Network, x: Tensor, precision: Precision, recorder: Recorder) -> None:
        """`x` is a batch like those to come."""
        super().__init__()
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        bf16 = precision == "bf16"
        # A recorded function cannot share the casts of weights that autocast would keep for its neighbours.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            parts, samples = self._parts(network, x)
            recorded = iter(recorder.segments(parts, samples))
        for buffer, before in buffers:
            buffer.copy_(before)
        self._stem = next(recorded)
        self._blocks = [
            [_identity if passes(block, k) else next(recorded) for k in range(len(block.mixed.ops))]
            for block in network.evolvable_blocks()
        ]
        self._head = next(recorded)

    @staticmethod
    def _parts(network: Network, x: Tensor) -> tuple[list[nn.Module], list[Tensor]]:
        """The modules to record, in the order of the forward pass, and an input for each: zeros, since random numbers
        would be missing in what growth draws later."""
        parts: list[nn.Module] = [Alone(network.stem)]
        samples = [torch.zeros_like(x)]
        with torch.no_grad():
            y = network.stem(x)
            for block in network.evolvable_blocks():
                following = block(y, index=0)
                for k in range(len(block.mixed.ops)):
                    if not passes(block, k):
                        parts.append(OnePath(block, k))
                        samples.append(torch.zeros_like(y).requires_grad_())
                y = following
        return [*parts, Alone(network.head)], [*samples, torch.zeros_like(y).requires_grad_()]

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Class scores (N, classes)."""
        y = self._stem(x)
        for i, candidates in enumerate(self._blocks):
            y = candidates[path[i]](y)
        return self._head(y)


class Alone(nn.Module):
    """A part of the network as a module of its own, whose `forward` may be replaced. It runs as the network runs it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return run_on_kernels(self.part, x)


class OnePath(nn.Module):
    """A block with one of its candidates, which alone with gain and projection it counts as its parameters."""

    def __init__(self, block: EvolvableBlock, index: int) -> None:
        super().__init__()
        self._block, self._index = (block,), index  # in a tuple, as no submodule
        self.op, self.gain, self.project = list(block.mixed.ops.values())[index], block.gain, block.project

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._block[0](x, index=self._index)
        return y


def passes(block: EvolvableBlock, index: int) -> bool:
    """Whether x leaves the block as it came, and nothing is launched."""
    return not block.spec.reduces and computes(list(block.mixed.ops.values())[index], nn.Identity)


def _identity(x: Tensor) -> Tensor:
    return x

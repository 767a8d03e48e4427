"""Networks for tests of what is launched instead of running modules, what modules give, and changes of modules."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asose_fast.config import SpaceConfig
from asose_fast.engine.step.steps import frozen
from asose_fast.ops.native.rehearsals import as_it_was
from asose_fast.space import Network, NetworkSpec
from asose_fast.space import network as network_module

CANDIDATES = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "nor_conv_3x3", "res_conv_3x3")
PATH, OTHER = [5, 1, 4], [0, 3, 2]

Step = Callable[..., list[Tensor]]
"""Makes, of images, the tensors that are given to a network beside a path."""


def small(dtype: torch.dtype = torch.float32, skeleton: str = "stages") -> tuple[Network, Tensor]:
    """A network of three blocks, all of whose tensors are random, and images with channels enough for kernels."""
    torch.manual_seed(0)
    config = SpaceConfig(candidates=CANDIDATES, channels=16, depth=3)
    network = Network(getattr(NetworkSpec, skeleton)(config, 16, 10, 8)).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.9) if tensor.dim() < 2 else tensor.normal_(0, 0.2)
    return network, torch.randn(4, 16, 8, 8, dtype=dtype)


def weight_step(x: Tensor, path: Sequence[int] = PATH, need_x: bool = True) -> list[Tensor]:
    """Images; gradients of parameters are wanted too."""
    return [x.detach().requires_grad_(need_x)]


def alpha_step(
    x: Tensor, path: Sequence[int] = PATH, need_x: bool = True, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Images and the weights of a hard sample; parameters are frozen."""
    weights = nn.functional.one_hot(torch.tensor(path), len(CANDIDATES)).to(dtype or x.dtype)
    return [*weight_step(x, path, need_x), weights.requires_grad_()]


def scores(network: Network, x: Tensor, weights: Tensor | None = None, *, path: Sequence[int] | None = PATH) -> Tensor:
    """Those of an alpha step if there are weights."""
    with contextlib.nullcontext() if weights is None else frozen(network):
        y: Tensor = network(x, weights, path)
        return y


def results(
    network: Network, step: Step, x: Tensor, path: Sequence[int] | None = PATH, **options: Any
) -> list[Tensor | None]:
    """Scores, all gradients, and the buffers afterwards."""
    network.zero_grad()
    given = step(x, path, **options)
    y = scores(network, *given, path=path)
    y.square().mean().backward()
    return [y.detach(), *(t.grad for t in (*given, *network.parameters())), *(b.clone() for b in network.buffers())]


def by_modules(run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `run` gives while nothing is launched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "replayable", lambda x: False)
        return run(*arguments, **options)


def nodes(y: Tensor) -> list[Any]:
    """The nodes of a graph that stand for launched parts."""
    waiting, seen = [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return [node for node in seen if type(node).__name__ == "_LaunchedBackward"]


def launched(y: Tensor) -> int:
    """How many parts of a graph are launched."""
    return sum(len(node.row) for node in nodes(y))


def launches(network: Network, step: Step, x: Tensor, path: Sequence[int] | None = PATH) -> int:
    """How many parts of a network are launched. Running statistics stay as they are."""
    with as_it_was(list(network.buffers())):
        return launched(scores(network, *step(x, path), path=path))


def assert_same(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)


def assert_alike(
    run: Callable[..., Sequence[Tensor | None]], network: Network, twin: Network, *arguments: Any, **options: Any
) -> None:
    """`run` gives, of a network, what it gives of its twin while nothing is launched."""
    assert_same(run(network, *arguments, **options), by_modules(run, twin, *arguments, **options))


def assert_by_modules(run: Callable[..., Sequence[Tensor | None]], network: Network, *arguments: Any) -> None:
    """`run` gives of a network, time and again, what it gives while nothing is launched."""
    twin = copy.deepcopy(network)
    for _ in range(4):
        assert_alike(run, network, twin, *arguments)


def check(
    network: Network, step: Step, x: Tensor, count: int = 6, paths: Sequence[Sequence[int] | None] = (PATH, OTHER)
) -> None:
    """It gives what its modules give; in the end `count` parts are launched."""
    twin = copy.deepcopy(network)
    for path in (*paths,) * 4:
        assert_alike(results, network, twin, step, x, path)
    assert launches(network, step, x, paths[0]) == count


def known(
    step: Step, dtype: torch.dtype = torch.float32, format: torch.memory_format = torch.contiguous_format
) -> tuple[Network, Tensor]:
    """A small network of which all is known, and images."""
    network, x = small(dtype)
    x = x.contiguous(memory_format=format)
    check(network, step, x)
    return network, x


def conv(network: Network) -> nn.Conv2d:
    return network.blocks[0].mixed.ops["res_conv_3x3"][1]  # type: ignore[index,return-value,union-attr]


def norm(network: Network) -> nn.BatchNorm2d:
    return network.stem[1]  # type: ignore[return-value]


def count_calls(network: Network) -> list[int]:
    """Exchanges a candidate of the second block for one that adds to the list whenever it is called."""
    calls: list[int] = []

    class Counting(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return x

    network.blocks[1].mixed.ops["skip_connect"] = Counting()  # type: ignore[index,operator,union-attr]
    return calls


def replace_parameter(network: Network) -> None:
    conv(network).weight = nn.Parameter(torch.randn_like(conv(network).weight))


def _replace_data(network: Network) -> None:
    conv(network).weight.data = torch.randn_like(conv(network).weight)


def _other_strides(network: Network) -> None:
    conv(network).weight.data = conv(network).weight.data.contiguous()


def write(network: Network) -> None:
    with torch.no_grad():
        conv(network).weight.mul_(2)


def _freeze(network: Network) -> None:
    conv(network).weight.requires_grad_(False)


def _other_eps(network: Network) -> None:
    norm(network).eps = 0.5


def _other_momentum(network: Network) -> None:
    norm(network).momentum = None


def _one_norm_in_eval(network: Network) -> None:
    norm(network).eval()


def _no_statistics(network: Network) -> None:
    norm(network).running_mean = norm(network).running_var = None


def _other_count(network: Network) -> None:
    norm(network).num_batches_tracked = torch.tensor(7)


def _leaky(network: Network) -> None:
    network.blocks[1].mixed.ops["sep_conv_3x3"][0] = nn.LeakyReLU(0.5)  # type: ignore[index,union-attr]


def _dilate(network: Network) -> None:
    conv(network).dilation, conv(network).padding, conv(network).zeros = (2, 2), (2, 2), (2, 2)


def _bias(network: Network) -> None:
    conv(network).bias = nn.Parameter(torch.ones(16))


def _own_forward(network: Network) -> None:
    relu = network.blocks[0].mixed.ops["res_conv_3x3"][0]  # type: ignore[index,union-attr]
    relu.forward = lambda x: x.abs()  # type: ignore[assignment,union-attr]


def _shared(network: Network) -> None:
    network.blocks[0].mixed.ops["res_conv_3x3"][4] = conv(network)  # type: ignore[index,operator,union-attr]


def _other_gain(network: Network) -> None:
    network.blocks[0].gain = nn.Parameter(torch.tensor(0.0))


def _append(network: Network) -> None:
    network.stem.append(nn.Softplus())


CHANGES = [
    replace_parameter, _replace_data, _other_strides, write, _freeze, _other_eps, _other_momentum, _one_norm_in_eval,
    _no_statistics, _other_count, _leaky, _dilate, _bias, _own_forward, _shared, _other_gain, _append,
]  # fmt: skip

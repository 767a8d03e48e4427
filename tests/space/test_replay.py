"""A path that is launched is, to the bit, what its modules give, and every change of them is noticed.

Where a test compares, the first pass is that of the modules, the second rehearses and the third launches.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast.engine.step.steps import frozen
from asose_fast.ops.native.rehearsals import as_it_was
from asose_fast.space import EvolvableBlock, Network, replay
from asose_fast.space.mixed import Plan
from tests.space.replay_cases import (
    CANDIDATES,
    CHANGES,
    PATH,
    assert_same,
    by_modules,
    conv,
    count_calls,
    launched,
    nodes,
    norm,
    replace_parameter,
    small,
    write,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _rehearsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RARE", 1)


def results(network: Network, x: Tensor, path: list[int] | None = PATH) -> list[Tensor | None]:
    """Scores, all gradients, and the buffers afterwards."""
    network.zero_grad()
    x = x.detach().requires_grad_()
    y = network(x, path=path)
    y.square().mean().backward()
    return [y.detach(), x.grad, *(p.grad for p in network.parameters()), *(b.clone() for b in network.buffers())]


def launches(network: Network, x: Tensor, path: list[int] | None = PATH) -> int:
    """How many parts are launched where gradients of all are wanted."""
    with as_it_was(list(network.buffers())):
        return launched(network(x.detach().requires_grad_(), path=path))


def check(network: Network, x: Tensor, path: list[int] | None = PATH, count: int = 6) -> None:
    """It gives what its modules give; in the end `count` parts are launched."""
    twin = copy.deepcopy(network)
    for _ in range(3):
        assert_same(results(network, x, path), by_modules(lambda: results(twin, x, path)))
    assert launches(network, x, path) == count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_is_that_of_its_modules(dtype: torch.dtype, training: bool) -> None:
    network, x = small(dtype)
    network.train(training)
    twin = copy.deepcopy(network)
    for seed in range(24):
        path = torch.randint(6, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
        assert_same(results(network, x, path), by_modules(lambda p=path: results(twin, x, p)))
    assert launches(network, x) == 6


def test_what_torch_computes_divides_a_path() -> None:
    network, x = small(skeleton="chain")
    check(network, x, count=4)


@pytest.mark.parametrize("of", ["weights and alpha", "weights", "alpha"])
def test_soft_mixtures(of: str) -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    torch.manual_seed(2)
    weights = torch.rand(3, 6).softmax(1)

    def mixed(one: Network) -> list[Tensor | None]:
        one.zero_grad()
        given = weights.clone().requires_grad_(of != "weights")
        with frozen(one) if of == "alpha" else contextlib.nullcontext():
            y = one(x, given)
            y.square().mean().backward()
        counts.append(launched(y))
        found = [given.grad, *(p.grad for p in one.parameters()), *(b.clone() for b in one.buffers())]
        return [y.detach(), *found]

    counts: list[int] = []
    for _ in range(4):
        assert_same(mixed(network), by_modules(lambda: mixed(twin)))
    assert counts[0::2][-1] == 6


def test_a_derived_network_is_launched() -> None:
    network, x = small()
    check(network.derive(PATH), x, path=None)


def test_batches_of_other_sizes_are_other_kinds() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    for size in (4, 3, 4, 1, 3):
        assert_same(results(network, x[:size]), by_modules(lambda n=size: results(twin, x[:n])))


def test_a_test_between_epochs_does_not_undo_what_is_known() -> None:
    network, x = small()
    known = []
    for training in (True, False, True, False):
        network.train(training)
        for _ in range(3):
            network(x, path=PATH)
        kinds = [of for kinds in network._launches._known.values() for of in kinds.values()]
        known.append({id(one.watch) for several in kinds for one in several})
    assert known[1] == known[3]
    assert known[0] < known[1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_modules_is_noticed(change: Callable[[Network], None]) -> None:
    network, x = small()
    check(network, x)
    twin = copy.deepcopy(network)
    for one in (network, twin):
        torch.manual_seed(1)
        change(one)
    for _ in range(2):
        assert_same(results(network, x), by_modules(lambda: results(twin, x)))


def test_hooks_are_called() -> None:
    network, x = small()
    check(network, x)
    seen: list[str] = []
    relu = network.blocks[0].mixed.ops["res_conv_3x3"][3]  # type: ignore[index,union-attr]
    handles = [
        relu.register_forward_hook(lambda *_: seen.append("forward")),  # type: ignore[operator,union-attr]
        network.blocks[2].register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    results(network, x)
    assert seen == ["forward", "backward"]
    for handle in handles:
        handle.remove()
    check(network, x)


def test_hooks_on_all_modules_are_called() -> None:
    network, x = small()
    check(network, x)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        network(x, path=PATH)
    finally:
        handle.remove()
    assert set(seen) >= {network.blocks[0], norm(network), conv(network)}


def test_drop_path_is_drawn_anew() -> None:
    network, x = small()
    check(network, x)
    network.set_drop_path(0.5)
    assert not torch.equal(network(x, path=PATH), network(x, path=PATH))
    network.set_drop_path(0.0)
    check(network, x)


def test_a_candidate_with_side_effects_is_not_launched() -> None:
    network, x = small()
    calls = count_calls(network)
    for _ in range(3):
        network(x, path=[5, 0, 4])
    assert len(calls) == 3


def test_second_derivatives() -> None:
    network, x = small(torch.float64)
    check(network, x)

    def penalty() -> list[Tensor]:
        given = x.clone().requires_grad_()
        (of_x,) = torch.autograd.grad(network(given, path=PATH).square().sum(), given, create_graph=True)
        wanted = [given, *(p for p in network.parameters() if p.requires_grad)]
        found = torch.autograd.grad(of_x.square().sum(), wanted, allow_unused=True)
        return [t for t in found if t is not None]

    network.eval()
    for training in (False, True):
        network.train(training)
        network(x, path=PATH)
        for a, b in zip(penalty(), by_modules(penalty), strict=True):
            torch.testing.assert_close(a, b)


def test_several_gradients_at_once_and_twice() -> None:
    network, x = small(torch.float64)
    network.eval()
    network(x, path=PATH)

    def jacobian() -> list[Tensor]:
        given = x.clone().requires_grad_()
        y = network(given, path=PATH)[0, :3]
        (rows,) = torch.autograd.grad(y, given, torch.eye(3, dtype=y.dtype), retain_graph=True, is_grads_batched=True)
        twice = [torch.autograd.grad(y.sum(), given, retain_graph=True)[0] for _ in range(2)]
        return [rows, *twice]

    found = jacobian()
    assert torch.equal(found[1], found[2])
    for a, b in zip(found, by_modules(jacobian), strict=True):
        torch.testing.assert_close(a, b)


def test_backward_lets_go_of_what_it_needed() -> None:
    network, x = small()
    for _ in range(2):
        network(x, path=PATH)
    loss = network(x, path=PATH).sum()
    (node,) = nodes(loss)
    loss.backward(retain_graph=True)
    assert (len(node.between), len(node.kept)) == (5, 6)
    loss.backward()
    assert node.between is None is node.kept
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_weights_that_are_written_before_backward_are_an_error() -> None:
    network, x = small()
    for _ in range(2):
        network(x, path=PATH)
    loss = network(x, path=PATH).sum()
    assert launched(loss) == 6
    assert len(nodes(loss)) == 1
    write(network)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_weights_that_are_moved_before_backward_are_read_where_they_are() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    network(x, path=PATH), by_modules(lambda: twin(x, path=PATH))

    def moved(one: Network) -> list[Tensor | None]:
        loss = one(x, path=PATH).sum()
        for parameter in one.parameters():
            parameter.data = parameter.data.clone()
        loss.backward()
        return [p.grad for p in one.parameters()]

    assert_same(moved(network), by_modules(lambda: moved(twin)))


def test_torch_func_and_saved_tensor_hooks_follow_the_modules() -> None:
    network, x = small(torch.float64)
    network.eval()
    network(x, path=PATH)
    expected = by_modules(lambda: network(x, path=PATH))
    values, tangents = torch.func.jvp(lambda x: network(x, path=PATH), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(values, expected)
    assert tangents.abs().sum() > 0
    with torch.autograd.graph.save_on_cpu():
        y = network(x.clone().requires_grad_(), path=PATH)
    assert launched(y) == 0
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    found = torch.func.functional_call(network, weights, (x,), {"path": PATH})
    torch.testing.assert_close(found, expected)


def test_inference_mode_and_no_grad() -> None:
    network, x = small()
    network.eval()
    expected = by_modules(lambda: network(x, path=PATH))
    for mode in (torch.inference_mode, torch.no_grad):
        for _ in range(2):
            with mode():
                assert torch.equal(network(x, path=PATH), expected)
    assert_same(results(network, x), by_modules(lambda: results(network, x)))


def test_a_profiler_sees_the_operators() -> None:
    network, x = small()
    network(x, path=PATH)
    with torch.profiler.profile() as profile:
        loss = network(x, path=PATH).sum()
        loss.backward()
    names = [event.name for event in profile.events()]
    for operator in ("conv_norm_fwd", "conv_norm_bwd", "separable_norm_fwd", "separable_norm_bwd"):
        assert f"asose_fast::{operator}" in names


def test_a_profiler_that_begins_before_backward_sees_it() -> None:
    network, x = small()
    check(network, x)
    expected = results(network, x)
    network.zero_grad()
    given = x.clone().requires_grad_()
    loss = network(given, path=PATH).square().mean()
    assert launched(loss) == 6
    with torch.profiler.profile() as profile:
        loss.backward()
    assert "asose_fast::conv_norm_bwd" in [event.name for event in profile.events()]
    found = [given.grad, *(p.grad for p in network.parameters())]
    assert_same(found, expected[1 : 1 + len(found)])


@pytest.mark.parametrize("nan", [False, True])
def test_a_gain_of_zero_is_that_of_the_modules(nan: bool) -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    for one in (network, twin):
        with torch.no_grad():
            one.evolvable_blocks()[1].gain.zero_()
            if nan:
                one.blocks[1].mixed.ops["sep_conv_3x3"][2].weight.fill_(torch.nan)  # type: ignore[index,operator,union-attr]
    for _ in range(3):
        for a, b in zip(results(network, x), by_modules(lambda: results(twin, x)), strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a.nan_to_num(), b.nan_to_num())


def test_other_numbers_of_threads() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            assert_same(results(network, x), by_modules(lambda: results(twin, x)))
    finally:
        torch.set_num_threads(1)


def test_several_threads_read_the_parameters_that_are_there() -> None:
    network, _ = small()
    network.eval()
    images = [torch.randn(size, 16, 8, 8) for size in range(1, 33)]
    expected = [by_modules(lambda x=x: network(x, path=PATH)) for x in images]

    def read(start: int) -> list[bool]:
        with torch.no_grad():
            return [torch.equal(network(images[i % 32], path=PATH), expected[i % 32]) for i in range(start, start + 96)]

    with ThreadPoolExecutor(4) as pool:
        assert all(itertools.chain(*pool.map(read, range(0, 32, 8))))


def test_parameters_of_other_dtypes_and_layouts() -> None:
    network, x = small(torch.float64)
    for block in network.evolvable_blocks():
        block.gain = nn.Parameter(block.gain.detach().float())
    conv(network).weight = nn.Parameter(torch.randn(32, 16, 3, 3, dtype=torch.float64)[::2])
    check(network, x, count=3)


def test_what_is_known_keeps_nothing_alive() -> None:
    network, x = small()
    results(network, x)
    old, rest = weakref.ref(conv(network).weight), weakref.ref(norm(network))
    replace_parameter(network)
    results(network, x)
    gc.collect()
    assert old() is None
    network.blocks[0].mixed.parent = [network.blocks[0]]  # type: ignore[union-attr]
    results(network, x)
    del network
    gc.collect()
    assert rest() is None


def test_few_kinds_are_known_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST", 2)
    network, _ = small()
    for size in range(2, 6):
        network(torch.randn(size, 16, 8, 8), path=PATH)
    assert {len(kinds) for kinds in network._launches._known.values()} == {2}


def test_what_stands_in_for_parameters_is_not_kept() -> None:
    network, x = small()
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    one = weakref.ref(weights["stem.0.weight"])
    torch.func.functional_call(network, weights, (x,), {"path": PATH})
    del weights
    gc.collect()
    assert one() is None


def test_images_that_change_before_backward_are_those_of_the_modules() -> None:
    def swapped(network: Network, x: Tensor, other: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        network.zero_grad()
        x = x.clone().requires_grad_()
        loss = network(x, path=PATH).square().sum()
        x.data = other(x.data)
        loss.backward()
        return [x.grad, *(p.grad for p in network.parameters())]

    network, x = small()
    x = x.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(network)
    check(network, x), check(twin, x)
    for other in (torch.clone, lambda x: x.contiguous()):
        assert_same(swapped(network, x, other), by_modules(lambda of=other: swapped(twin, x, of)))


def test_images_without_memory_are_an_error() -> None:
    network, x = small()
    x = x.to(memory_format=torch.channels_last)
    for _ in range(2):
        network(x, path=PATH)
    loss = network(x, path=PATH).sum()
    x.untyped_storage().resize_(0)
    for run in (loss.backward, lambda: network(x, path=PATH)):
        with pytest.raises(ValueError, match="no memory"):
            run()


def test_blocks_of_other_kinds_run() -> None:
    class Twice(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            y: Tensor = self.block(x, *rest)
            return y * 2

    class Thrice(EvolvableBlock):
        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return super().forward(x, *rest) * 3

    network, x = small()
    check(network, x)
    network.blocks[1] = Twice(network.blocks[1])
    check(network, x, count=4)
    network.blocks[0].__class__ = Thrice
    check(network, x, count=2)


def test_a_method_that_is_replaced_on_a_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small()
    check(network, x)
    monkeypatch.setattr(EvolvableBlock, "shortcut", lambda self, x: x * 2)
    check(network, x, count=0)


def test_plans_decide_what_runs() -> None:
    network, x = small()
    network.eval()
    seen: list[int] = []
    for index in (0, 1, 5):
        for block in network.evolvable_blocks():
            block.mixed.plan = Plan(index=index)
        for _ in range(2):
            assert torch.equal(network(x), by_modules(lambda: network(x)))
        handle = (
            network.blocks[0]
            .mixed.ops[CANDIDATES[index]]
            .register_forward_hook(  # type: ignore[index,operator,union-attr]
                lambda *_, i=index: seen.append(i)
            )
        )
        network(x)
        handle.remove()
    assert seen == [0, 1, 5]


def test_paths_of_tensors_are_played_and_bad_ones_are_errors() -> None:
    network, x = small()
    check(network, x)
    assert launches(network, x, torch.tensor(PATH)) == 6
    for bad, error in (([9, 0, 0], "must be one of"), (["a", 0, 0], "integer"), ([1.0, 0, 0], "integer")):
        with pytest.raises((TypeError, ValueError), match=error):
            network(x, path=bad)  # type: ignore[arg-type]


def test_images_of_inference_mode_train() -> None:
    network, x = small()
    with torch.inference_mode():
        x = x.to(memory_format=torch.channels_last).clone()
    for _ in range(2):
        network(x, path=PATH).sum().backward()


def test_a_mode_around_backward_sees_the_operators() -> None:
    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    def operators() -> list[str]:
        loss = network(x, path=PATH).sum()
        with Names() as names:
            loss.backward()
        return [name for name in names.seen if name.startswith("asose_fast")]

    network, x = small()
    check(network, x)
    assert len(operators()) >= 6
    assert operators() == by_modules(operators)


def test_hooks_see_the_arguments_of_before() -> None:
    network, x = small()
    seen: list[int] = []
    network.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments)))
    network(x, path=PATH)
    assert seen == [4]

"""Parts under weights and a sampled candidate are, to the bit, what their modules give, and every change is noticed.

Where a test compares, the first pass is that of the modules, the second rehearses and the third launches.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asose_fast.engine.step.steps import frozen
from asose_fast.ops.native.rehearsals import as_it_was
from asose_fast.space import EvolvableBlock, Network, replay
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
    replace_parameter,
    small,
    write,
)

OTHER = [0, 3, 2]


def one_hot(path: Sequence[int], count: int = len(CANDIDATES), dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of a hard sample, which want gradients."""
    return nn.functional.one_hot(torch.tensor(path), count).to(dtype).requires_grad_()


def launches(network: Network, x: Tensor, path: Sequence[int] = PATH, weights: Tensor | None = None) -> int:
    """How many parts an alpha step launches. Running statistics stay as they are."""
    with as_it_was(list(network.buffers())):
        return launched(scores(network, x, path, weights))


def scores(network: Network, x: Tensor, path: Sequence[int] = PATH, weights: Tensor | None = None) -> Tensor:
    """Those of an alpha step."""
    weights = one_hot(path, dtype=x.dtype) if weights is None else weights
    with frozen(network):
        return network(x, weights, list(path))


def results(
    network: Network, x: Tensor, path: Sequence[int] = PATH, need_x: bool = False, dtype: torch.dtype | None = None
) -> list[Tensor | None]:
    """Scores, dL/dw and maybe dL/dx, and the buffers afterwards."""
    weights, x = one_hot(path, dtype=dtype or x.dtype), x.detach().requires_grad_(need_x)
    y = scores(network, x, path, weights)
    y.square().mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    return [y.detach(), weights.grad, x.grad, *(buffer.clone() for buffer in network.buffers())]


def check(network: Network, x: Tensor, count: int = 6, passes: int = 4) -> None:
    """It gives what its modules give; in the end `count` parts are launched."""
    twin = copy.deepcopy(network)
    for _ in range(passes):
        for path in (PATH, OTHER):
            assert_same(results(network, x, path), by_modules(lambda p=path: results(twin, x, p)))
    assert launches(network, x) == count


@pytest.fixture(autouse=True)
def _rehearsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RARE", 1)


@pytest.mark.parametrize("skeleton", ["stages", "chain", "mobile"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_is_that_of_its_modules(dtype: torch.dtype, training: bool, skeleton: str) -> None:
    network, x = small(dtype, skeleton)
    network.train(training)
    twin = copy.deepcopy(network)
    found = []
    for seed in range(20):
        path = torch.randint(6, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
        for need_x in (False, True):
            given = dict(path=path, need_x=need_x)
            assert_same(results(network, x, **given), by_modules(lambda g=given: results(twin, x, **g)))
        found.append(launches(network, x, path))
    assert sum(found[10:]) >= 20


def test_launches_are_used_from_the_third_time_on() -> None:
    network, x = small()
    assert [launches(network, x) for _ in range(4)] == [0, 5, 6, 6]


def test_what_is_rare_is_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RARE", 3)
    network, x = small()
    assert [launches(network, x) for _ in range(5)] == [0, 0, 0, 5, 6]


def test_weights_of_another_dtype() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    for _ in range(3):
        for dtype in (torch.float64, torch.float32):
            assert_same(results(network, x, dtype=dtype), by_modules(lambda of=dtype: results(twin, x, dtype=of)))


def test_weights_of_any_layout() -> None:
    network, x = small()
    check(network, x)
    for dense in (False, True, False):
        weights = (one_hot(PATH) if dense else one_hot(PATH).detach().t().contiguous().t()).requires_grad_()
        assert weights[0].is_contiguous() == dense
        found = torch.autograd.grad(scores(network, x, weights=weights).sum(), weights)
        expected = by_modules(lambda of=weights: torch.autograd.grad(scores(network, x, weights=of).sum(), of))
        assert_same(list(found), list(expected))


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (2, 6), (18,), (3, 6, 1)])
def test_weights_of_another_shape_are_errors(shape: tuple[int, ...]) -> None:
    network, x = small()
    path = [1, 1, 4]
    for _ in range(3):
        scores(network, x, path)
    weights = torch.zeros(shape)
    if len(shape) == 2:
        weights[range(shape[0]), path[: shape[0]]] = 1
    with pytest.raises((ValueError, IndexError, TypeError)):
        scores(network, x, path, weights.requires_grad_())


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_modules_is_noticed(change: Callable[[Network], None]) -> None:
    network, x = small()
    check(network, x)
    twin = copy.deepcopy(network)
    for one in (network, twin):
        torch.manual_seed(1)
        change(one)
    for _ in range(4):
        for path in (PATH, OTHER):
            assert_same(results(network, x, path), by_modules(lambda p=path: results(twin, x, p)))


def test_parameters_change_in_place_between_steps() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1, momentum=0.9) for one in (network, twin)]
    for step in range(6):
        path = (PATH, OTHER)[step % 2]
        assert_same(results(network, x, path), by_modules(lambda p=path: results(twin, x, p)))
        for one, optimizer in zip((network, twin), optimizers, strict=True):
            one(x, path=path).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert launches(network, x) == 6


@pytest.mark.parametrize("gain", [0.0, 1.0, -0.25])
def test_the_gain_changes_between_steps(gain: float) -> None:
    network, x = small()
    check(network, x)
    twin = copy.deepcopy(network)
    for value in (gain, 0.75, gain):
        for one in (network, twin):
            with torch.no_grad():
                one.evolvable_blocks()[1].gain.fill_(value)
        for _ in range(3):
            assert_same(results(network, x), by_modules(lambda: results(twin, x)))
        assert launches(network, x) == (5 if value == 1 else 6)


def test_hooks_are_called() -> None:
    network, x = small()
    check(network, x)
    seen: list[str] = []
    relu = network.blocks[0].mixed.ops["res_conv_3x3"][3]  # type: ignore[index,union-attr]
    handles = [
        relu.register_forward_hook(lambda *_: seen.append("forward")),  # type: ignore[operator,union-attr]
        network.blocks[2].register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    for _ in range(4):
        results(network, x)
        assert seen == ["forward", "backward"]
        seen.clear()
    for handle in handles:
        handle.remove()
    check(network, x)


def test_drop_path_is_drawn_anew() -> None:
    network, x = small()
    check(network, x)
    network.set_drop_path(0.5)
    assert not torch.equal(scores(network, x), scores(network, x))
    assert launches(network, x) == 0
    network.set_drop_path(0.0)
    check(network, x)


def test_other_weights_other_plans_and_unfrozen_parameters() -> None:
    network, x = small()
    check(network, x)
    soft, kept = torch.full((3, 6), 1 / 6, requires_grad=True), [tuple(sorted({k, 2})) for k in PATH]
    runs: list[Callable[[], Tensor]] = [
        lambda: scores(network, x, weights=soft),
        lambda: network(x, one_hot(PATH), PATH),
        lambda: network(x, one_hot(PATH), PATH, kept),
        lambda: network(x, one_hot(PATH)),
        lambda: scores(network, x, weights=one_hot(OTHER)),
        lambda: scores(network, x, weights=one_hot(PATH).detach()),
    ]
    for run in runs:
        for _ in range(3):
            assert torch.equal(run(), by_modules(run))
    with torch.no_grad():
        network.eval()
        assert torch.equal(scores(network, x), by_modules(lambda: scores(network, x)))


def test_large_images_are_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small()
    monkeypatch.setattr(replay, "LARGE", 16 * 4 * 8 * 8 * 4 - 1)
    check(network, x, count=4)


def test_second_derivatives_are_refused() -> None:
    network, x = small()
    check(network, x)
    weights = one_hot(PATH)
    loss = scores(network, x, weights=weights).square().sum()
    assert launched(loss) == 6
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, weights, create_graph=True)


def test_several_gradients_at_once_and_twice() -> None:
    network, x = small(torch.float64)
    network.eval()
    check(network, x)
    twin = copy.deepcopy(network)

    def jacobian(one: Network) -> list[Tensor]:
        weights, given = one_hot(PATH, dtype=torch.float64), x.clone().requires_grad_()
        y = scores(one, given, weights=weights)[0, :3]
        wanted = [weights, given]
        rows = torch.autograd.grad(y, wanted, torch.eye(3, dtype=y.dtype), retain_graph=True, is_grads_batched=True)
        twice = [torch.autograd.grad(y.sum(), wanted, retain_graph=True) for _ in range(2)]
        return [*rows, *twice[0], *twice[1]]

    for _ in range(3):
        found = jacobian(network)
    assert torch.equal(found[2], found[4])
    assert torch.equal(found[3], found[5])
    for a, b in zip(found, by_modules(lambda: jacobian(twin)), strict=True):
        torch.testing.assert_close(a, b)


def test_several_gradients_at_once_leave_running_statistics() -> None:
    network, x = small()
    check(network, x)
    weights = one_hot(PATH)
    y = scores(network, x, weights=weights)[0, :3]
    before = [buffer.clone() for buffer in network.buffers()]
    torch.autograd.grad(y, weights, torch.eye(3), is_grads_batched=True)
    assert_same(before, list(network.buffers()))


def test_backward_lets_go_of_what_it_needed() -> None:
    network, x = small()
    check(network, x)
    loss = scores(network, x).sum()
    (node,) = nodes(loss)
    loss.backward(retain_graph=True)
    assert (len(node.between), len(node.kept)) == (5, 6)
    loss.backward()
    assert node.between is None is node.kept
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_weights_that_are_written_before_backward_are_an_error() -> None:
    network, x = small()
    x.requires_grad_()
    for count in (0, 0, 6):
        loss = scores(network, x).sum()
        assert launched(loss) == count or count == 0
        write(network)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_weights_that_are_moved_before_backward_are_read_where_they_are() -> None:
    network, x = small()
    check(network, x)
    twin = copy.deepcopy(network)

    def moved(one: Network) -> list[Tensor | None]:
        weights, given = one_hot(PATH), x.clone().requires_grad_()
        loss = scores(one, given, weights=weights).sum()
        for parameter in one.parameters():
            parameter.data = parameter.data.clone()
        loss.backward()
        return [weights.grad, given.grad]

    for _ in range(3):
        assert_same(moved(network), by_modules(lambda: moved(twin)))


def test_functional_call_and_torch_func_follow_the_modules() -> None:
    network, x = small(torch.float64)
    network.eval()
    check(network, x)
    weights = one_hot(PATH, dtype=torch.float64)
    expected = by_modules(lambda: scores(network, x, weights=weights)).detach()
    stands_in = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _ in range(3):
        found = torch.func.functional_call(network, stands_in, (x, weights, PATH))
        torch.testing.assert_close(found, expected)
    one = weakref.ref(stands_in["blocks.0.mixed.ops.res_conv_3x3.1.weight"])
    del stands_in, found
    scores(network, x, weights=weights)
    gc.collect()
    assert one() is None
    of_weights = torch.func.jacrev(lambda w: network(x, w, PATH).sum())(weights)
    (by_autograd,) = torch.autograd.grad(scores(network, x, weights=weights).sum(), weights)
    torch.testing.assert_close(of_weights, by_autograd)


def test_a_profiler_sees_the_operators() -> None:
    network, x = small()
    check(network, x)
    expected = results(copy.deepcopy(network), x)
    with torch.profiler.profile() as profile:
        found = results(network, x)
    assert_same(found, expected)
    names = [event.name for event in profile.events()]
    for operator in ("mixed_norm_sum_fwd", "mixed_norm_sum_bwd"):
        assert any(operator in name for name in names)


@pytest.mark.parametrize("around", ["all", "backward"])
def test_a_mode_sees_the_operators(around: str) -> None:
    network, x = small()
    check(network, x)

    def flops() -> int:
        with FlopCounterMode(display=False) if around == "all" else contextlib.nullcontext() as counter:
            loss = scores(network, x).sum()
            if counter is not None:
                loss.backward()
                return counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        return counter.get_total_flops()

    assert flops() == by_modules(flops) > 0


def test_copies_and_pickles_find_out_for_themselves() -> None:
    network, x = small()
    check(network, x)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(file, weights_only=False)):
        assert launches(other, x) == 0
        check(other, x)


def test_a_candidate_with_side_effects_is_never_rehearsed() -> None:
    network, x = small()
    calls = count_calls(network)
    for n in range(1, 5):
        assert launches(network, x) == (0, 4, 5, 5)[n - 1]
        assert len(calls) == n


def test_random_candidates_leave_the_generator_as_it_would_be() -> None:
    network, x = small()
    network.blocks[1].mixed.ops["skip_connect"] = nn.Dropout(0.5)  # type: ignore[index,operator,union-attr]
    twin = copy.deepcopy(network)

    def drawn(one: Network) -> list[Tensor | None]:
        torch.manual_seed(3)
        return [*(of for _ in range(4) for of in results(one, x)), torch.rand(3)]

    assert_same(drawn(network), by_modules(lambda: drawn(twin)))


def test_rehearsals_leave_the_generator_and_versions_of_parameters() -> None:
    network, x = small()
    state = torch.get_rng_state()
    tensors = [*network.parameters(), *network.buffers()]
    values, versions = [p.detach().clone() for p in network.parameters()], [t._version for t in tensors]
    for _ in range(2):
        scores(network, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(values, [p.detach() for p in network.parameters()])
    twin, _ = small()
    twins, before = [*twin.parameters(), *twin.buffers()], versions
    versions = [t._version for t in twins]
    for _ in range(2):
        by_modules(lambda: scores(twin, x))
    assert [t._version - v for t, v in zip(tensors, before, strict=True)] == [
        t._version - v for t, v in zip(twins, versions, strict=True)
    ]


def test_images_of_any_layout_and_number() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    wide = torch.randn(4, 32, 8, 16)
    for given in (
        x,
        x[:1],
        x.contiguous(memory_format=torch.channels_last),
        wide[:, ::2, :, ::2],
        x[:, :1].expand_as(x),
    ):
        for need_x in (False, True):
            for _ in range(3):
                assert_same(
                    results(network, given, need_x=need_x),
                    by_modules(lambda of=given, n=need_x: results(twin, of, need_x=n)),
                )


@pytest.mark.parametrize("side", [1, 2])
def test_small_images(side: int) -> None:
    network, _ = small()
    x = torch.randn(4, 16, 8 * side, 4)
    check(network, x)


def test_no_images() -> None:
    network, x = small()
    network.eval()
    twin = copy.deepcopy(network)
    for _ in range(3):
        assert_same(results(network, x[:0]), by_modules(lambda: results(twin, x[:0])))


def test_other_numbers_of_threads() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    for threads in (1, 2, 1, 2, 1):
        torch.set_num_threads(threads)
        assert_same(results(network, x), by_modules(lambda: results(twin, x)))


def test_threads_that_change_before_backward() -> None:
    network, x = small()
    check(network, x)
    twin = copy.deepcopy(network)

    def run(one: Network) -> list[Tensor | None]:
        weights = one_hot(PATH)
        loss = scores(one, x, weights=weights).sum()
        torch.set_num_threads(2)
        loss.backward()
        torch.set_num_threads(1)
        return [weights.grad]

    assert_same(run(network), by_modules(lambda: run(twin)))


def test_what_is_known_is_bounded_and_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST", 2)
    network, _ = small()
    for size in range(2, 6):
        scores(network, torch.randn(size, 16, 8, 8))
    assert {len(kinds) for kinds in network._launches._known.values()} == {2}
    old = weakref.ref(conv(network).weight)
    replace_parameter(network)
    scores(network, torch.randn(2, 16, 8, 8))
    gc.collect()
    assert old() is None


def test_a_block_that_is_let_go_is_forgotten() -> None:
    network, x = small()
    check(network, x)
    block = weakref.ref(network.blocks[1])
    network.blocks[1] = EvolvableBlock(network.evolvable_blocks()[1].spec)
    gc.collect()
    assert block() is None
    check(network, x)


def test_tied_blocks() -> None:
    network, x = small(skeleton="chain")
    same = next(i for i, block in enumerate(network.evolvable_blocks()) if not block.spec.reduces)
    network.blocks.insert(same, network.blocks[same])
    twin, path = copy.deepcopy(network), [5, 1, 4, 4]
    assert twin.blocks[same] is twin.blocks[same + 1]
    for _ in range(4):
        assert_same(results(network, x, path), by_modules(lambda: results(twin, x, path)))


@pytest.mark.parametrize("what", ["expanded", "inference"])
def test_parameters_that_cannot_be_written_are_those_of_the_modules(what: str) -> None:
    network, x = small()
    if what == "expanded":
        conv(network).weight = nn.Parameter(torch.full((1, 1, 1, 1), 0.1).expand(16, 16, 3, 3))
    else:
        with torch.inference_mode():
            weight = torch.randn(16, 16, 3, 3)
        conv(network).weight = nn.Parameter(weight, requires_grad=False)
    twin = copy.deepcopy(network) if what == "expanded" else network
    network.eval()
    twin.eval()
    for _ in range(4):
        assert_same(results(network, x), by_modules(lambda: results(twin, x)))


def test_images_that_change_before_backward_are_those_of_the_modules() -> None:
    network, x = small()
    check(network, x)
    x = x.detach().contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(network)

    def swapped(one: Network, other: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        weights, given = one_hot(PATH), x.clone().requires_grad_()
        loss = scores(one, given, weights=weights).square().sum()
        given.data = other(given.data)
        loss.backward()
        return [given.grad, weights.grad]

    for _ in range(3):
        for other in (torch.clone, lambda x: x.contiguous()):
            assert_same(swapped(network, other), by_modules(lambda of=other: swapped(twin, of)))


def test_settings_of_torch() -> None:
    network, x = small()
    twin = copy.deepcopy(network)

    @contextlib.contextmanager
    def of_float64() -> Any:
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @contextlib.contextmanager
    def nondeterministic() -> Any:
        torch.use_deterministic_algorithms(False)
        yield
        torch.use_deterministic_algorithms(True)

    for setting in (of_float64, nondeterministic, contextlib.nullcontext):
        for size in (4, 3):
            for _ in range(3):
                with setting():
                    assert_same(results(network, x[:size]), by_modules(lambda n=size: results(twin, x[:n])))


def test_autocast_and_hooks_on_saved_tensors_follow_the_modules() -> None:
    network, x = small()
    network.eval()
    check(network, x)
    for _ in range(3):
        with torch.autograd.graph.save_on_cpu():
            assert launches(network, x) == 0
        with torch.autocast("cpu", torch.bfloat16):
            found = scores(network, x)
            expected = by_modules(lambda: scores(network, x))
        assert launched(found) == 0
        assert torch.equal(found, expected)


def test_tensors_of_inference_mode() -> None:
    network, x = small()
    check(network, x)
    with torch.inference_mode():
        given = x.contiguous(memory_format=torch.channels_last).clone()
        scores(network, given, weights=one_hot(PATH).detach())
    twin = copy.deepcopy(network)
    for _ in range(3):
        weights, of_modules = one_hot(PATH), one_hot(PATH)
        scores(network, given, weights=weights).sum().backward()
        by_modules(lambda of=of_modules: scores(twin, given, weights=of).sum().backward())
        assert_same([weights.grad], [of_modules.grad])

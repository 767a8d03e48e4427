"""What is launched in weight and alpha steps is, to the bit, what modules give, and every change of them is noticed.

Where a test compares, the first pass is that of the modules, the second rehearses and the third launches.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import itertools
import pickle
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast.engine.step.steps import frozen
from asose_fast.space import EvolvableBlock, Network, replay
from asose_fast.space.mixed import Plan
from tests.space.replay_cases import (
    CANDIDATES,
    CHANGES,
    OTHER,
    PATH,
    Step,
    alpha_step,
    assert_alike,
    assert_by_modules,
    assert_same,
    by_modules,
    check,
    conv,
    count_calls,
    known,
    launched,
    launches,
    nodes,
    norm,
    replace_parameter,
    results,
    scores,
    small,
    weight_step,
    write,
)


@pytest.fixture(params=[weight_step, alpha_step])
def step(request: pytest.FixtureRequest) -> Step:
    found: Step = request.param
    return found


@pytest.fixture(autouse=True)
def _rehearsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RARE", 1)


@pytest.mark.parametrize("skeleton", ["stages", "chain", "mobile"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_is_that_of_its_modules(dtype: torch.dtype, training: bool, skeleton: str, step: Step) -> None:
    network, x = small(dtype, skeleton)
    network.train(training)
    twin, found = copy.deepcopy(network), []
    for seed in range(20):
        path = torch.randint(6, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
        for need_x in (False, True):
            assert_alike(results, network, twin, step, x, path, need_x=need_x)
        found.append(launches(network, step, x, path))
    assert sum(found[10:]) >= 20


def test_what_torch_computes_divides_a_path(step: Step) -> None:
    network, x = small(skeleton="chain")
    check(network, step, x, count=4)


def test_a_derived_network_is_launched() -> None:
    network, x = small()
    check(network.derive(PATH), weight_step, x, paths=[None])


@pytest.mark.parametrize("of", ["weights and alpha", "weights", "alpha"])
def test_soft_mixtures(of: str) -> None:
    network, x = small()
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
    assert_by_modules(mixed, network)
    assert counts[0::2][-1] == 6


def test_launches_are_used_from_the_second_time_on(step: Step) -> None:
    network, x = small()
    assert [launches(network, step, x) for _ in range(4)] == [0, 6, 6, 6]


def test_what_is_rare_is_not_rehearsed(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RARE", 3)
    network, x = small()
    assert [launches(network, step, x) for _ in range(5)] == [0, 0, 0, 6, 6]


def test_large_images_are_not_rehearsed(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LARGE", 16 * 4 * 8 * 8 * 4 - 1)
    network, x = small()
    check(network, step, x, count=4)


def test_a_candidate_with_side_effects_is_never_rehearsed(step: Step) -> None:
    network, x = small()
    calls = count_calls(network)
    assert [(launches(network, step, x, [5, 0, 4]), len(calls)) for _ in range(4)] == [(0, 1), (5, 2), (5, 3), (5, 4)]


def test_random_candidates_leave_the_generator_as_it_would_be() -> None:
    network, x = small()
    network.blocks[1].mixed.ops["skip_connect"] = nn.Dropout(0.5)  # type: ignore[index,operator,union-attr]

    def drawn(one: Network) -> list[Tensor | None]:
        torch.manual_seed(3)
        return [*(of for _ in range(4) for of in results(one, alpha_step, x)), torch.rand(3)]

    assert_by_modules(drawn, network)


def test_rehearsals_leave_the_generator_and_versions_of_parameters(step: Step) -> None:
    (network, x), (twin, _) = small(), small()
    state, values = torch.get_rng_state(), [p.detach().clone() for p in network.parameters()]

    def written(one: Network) -> list[int]:
        tensors = [*one.parameters(), *one.buffers()]
        versions = [t._version for t in tensors]
        for _ in range(2):
            scores(one, *step(x))
        return [t._version - before for t, before in zip(tensors, versions, strict=True)]

    assert written(network) == by_modules(written, twin)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(values, [p.detach() for p in network.parameters()])


def test_images_of_any_layout_and_number(step: Step) -> None:
    network, x = small()
    twin, wide = copy.deepcopy(network), torch.randn(4, 32, 8, 16)
    layouts = [x, x.contiguous(memory_format=torch.channels_last), wide[:, ::2, :, ::2], x[:, :1].expand_as(x)]
    for given in (*layouts, x[:3], x, x[:1], x[:3]):
        for need_x in (False, True):
            for _ in range(3):
                assert_alike(results, network, twin, step, given, need_x=need_x)


@pytest.mark.parametrize("side", [1, 2])
def test_small_images(side: int, step: Step) -> None:
    network, _ = small()
    check(network, step, torch.randn(4, 16, 8 * side, 4))


def test_no_images(step: Step) -> None:
    network, x = small()
    network.eval()
    assert_by_modules(results, network, step, x[:0])


def test_weights_of_another_dtype() -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    for _ in range(3):
        for dtype in (torch.float64, torch.float32):
            assert_alike(results, network, twin, alpha_step, x, dtype=dtype)


def test_weights_of_any_layout() -> None:
    def transposed(x: Tensor, path: Sequence[int]) -> list[Tensor]:
        x, weights = alpha_step(x, path)
        found = weights.detach().t().contiguous().t().requires_grad_()
        assert not found[0].is_contiguous()
        return [x, found]

    network, x = known(alpha_step)
    twin = copy.deepcopy(network)
    for step in (transposed, alpha_step, transposed):
        assert_alike(results, network, twin, step, x)


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (2, 6), (18,), (3, 6, 1)])
def test_weights_of_another_shape_are_errors(shape: tuple[int, ...]) -> None:
    network, x = small()
    path = [1, 1, 4]
    for _ in range(3):
        scores(network, *alpha_step(x, path), path=path)
    weights = torch.zeros(shape)
    if len(shape) == 2:
        weights[range(shape[0]), path[: shape[0]]] = 1
    with pytest.raises((ValueError, IndexError, TypeError)):
        scores(network, x, weights.requires_grad_(), path=path)


def test_paths_of_tensors_are_launched_and_bad_ones_are_errors() -> None:
    network, x = known(weight_step)
    assert launches(network, weight_step, x, torch.tensor(PATH)) == 6  # type: ignore[arg-type]
    for bad, error in (([9, 0, 0], "must be one of"), (["a", 0, 0], "integer"), ([1.0, 0, 0], "integer")):
        with pytest.raises((TypeError, ValueError), match=error):
            network(x, path=bad)  # type: ignore[arg-type]


def test_other_weights_other_plans_and_unfrozen_parameters() -> None:
    network, x = known(alpha_step)
    weights, other = (alpha_step(x, path)[1] for path in (PATH, OTHER))
    soft, kept = torch.full((3, 6), 1 / 6, requires_grad=True), [tuple(sorted({k, 2})) for k in PATH]
    runs: list[Callable[[], Tensor]] = [
        lambda: scores(network, x, soft),
        lambda: network(x, weights, PATH),
        lambda: network(x, weights, PATH, kept),
        lambda: network(x, weights),
        lambda: scores(network, x, other),
        lambda: scores(network, x, weights.detach()),
    ]
    for run in runs:
        for _ in range(3):
            assert torch.equal(run(), by_modules(run))


def test_plans_decide_what_runs() -> None:
    network, x = small()
    network.eval()
    seen: list[int] = []
    for index in (0, 1, 5):
        for block in network.evolvable_blocks():
            block.mixed.plan = Plan(index=index)
        for _ in range(2):
            assert torch.equal(network(x), by_modules(network, x))
        candidate = network.blocks[0].mixed.ops[CANDIDATES[index]]  # type: ignore[index,union-attr]
        handle = candidate.register_forward_hook(lambda *_, i=index: seen.append(i))  # type: ignore[operator,union-attr]
        network(x)
        handle.remove()
    assert seen == [0, 1, 5]


@pytest.mark.parametrize("gain", [0.0, 1.0, -0.25])
def test_the_gain_changes_between_steps(gain: float, step: Step) -> None:
    network, x = known(step)
    twin, unlaunched = copy.deepcopy(network), 0 if step is weight_step else 1
    for value in (gain, 0.75, gain):
        for one in (network, twin):
            with torch.no_grad():
                one.evolvable_blocks()[1].gain.fill_(value)
        for _ in range(3):
            assert_alike(results, network, twin, step, x)
        assert launches(network, step, x) == (5 if value == unlaunched else 6)


def test_a_gain_of_zero_is_that_of_the_modules_where_there_is_nan(step: Step) -> None:
    network, x = small()
    with torch.no_grad():
        network.evolvable_blocks()[1].gain.zero_()
        network.blocks[1].mixed.ops["sep_conv_3x3"][2].weight.fill_(torch.nan)  # type: ignore[index,operator,union-attr]

    def without_nan(one: Network) -> list[Tensor | None]:
        return [None if t is None else t.nan_to_num() for t in results(one, step, x)]

    assert_by_modules(without_nan, network)


def test_parameters_change_in_place_between_steps(step: Step) -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1, momentum=0.9) for one in (network, twin)]
    for path in (PATH, OTHER) * 3:
        assert_alike(results, network, twin, step, x, path)
        for one, optimizer in zip((network, twin), optimizers, strict=True):
            optimizer.zero_grad()
            one(x, path=path).square().mean().backward()
            optimizer.step()
    assert launches(network, step, x) == 6


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_modules_is_noticed(change: Callable[[Network], None], step: Step) -> None:
    network, x = known(step)
    twin = copy.deepcopy(network)
    for one in (network, twin):
        torch.manual_seed(1)
        change(one)
    for path in (PATH, OTHER) * 4:
        assert_alike(results, network, twin, step, x, path)


def test_hooks_are_called(step: Step) -> None:
    network, x = known(step)
    seen: list[str] = []
    relu = network.blocks[0].mixed.ops["res_conv_3x3"][3]  # type: ignore[index,union-attr]
    handles = [
        relu.register_forward_hook(lambda *_: seen.append("forward")),  # type: ignore[operator,union-attr]
        network.blocks[2].register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    for _ in range(4):
        results(network, step, x)
        assert seen == ["forward", "backward"]
        seen.clear()
    for handle in handles:
        handle.remove()
    check(network, step, x)


def test_hooks_on_all_modules_are_called(step: Step) -> None:
    network, x = known(step)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        scores(network, *step(x))
    finally:
        handle.remove()
    assert set(seen) >= {network.blocks[0], norm(network), conv(network)}


def test_hooks_see_the_arguments_of_before() -> None:
    network, x = small()
    seen: list[int] = []
    network.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments)))
    network(x, path=PATH)
    assert seen == [4]


def test_drop_path_is_drawn_anew(step: Step) -> None:
    network, x = known(step)
    network.set_drop_path(0.5)
    assert not torch.equal(*(scores(network, *step(x)) for _ in range(2)))
    network.set_drop_path(0.0)
    check(network, step, x)


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

    network, x = known(weight_step)
    network.blocks[1] = Twice(network.blocks[1])
    check(network, weight_step, x, count=4)
    network.blocks[0].__class__ = Thrice
    check(network, weight_step, x, count=2)


def test_a_method_that_is_replaced_on_a_class_is_called(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = known(step)
    monkeypatch.setattr(EvolvableBlock, "shortcut", lambda self, x: x * 2)
    check(network, step, x, count=0)


def test_tied_blocks(step: Step) -> None:
    network, x = small(skeleton="chain")
    same = next(i for i, block in enumerate(network.evolvable_blocks()) if not block.spec.reduces)
    network.blocks.insert(same, network.blocks[same])
    assert_by_modules(results, network, step, x, [5, 1, 4, 4])


def test_parameters_of_other_dtypes_and_layouts(step: Step) -> None:
    network, x = small(torch.float64)
    for block in network.evolvable_blocks():
        block.gain = nn.Parameter(block.gain.detach().float())
    conv(network).weight = nn.Parameter(torch.randn(32, 16, 3, 3, dtype=torch.float64)[::2])
    check(network, step, x, count=3)


@pytest.mark.parametrize("what", ["expanded", "inference"])
def test_parameters_that_cannot_be_written_are_those_of_the_modules(what: str) -> None:
    network, x = small()
    if what == "expanded":
        conv(network).weight = nn.Parameter(torch.full((1, 1, 1, 1), 0.1).expand(16, 16, 3, 3))
    else:
        with torch.inference_mode():
            weight = torch.randn(16, 16, 3, 3)
        conv(network).weight = nn.Parameter(weight, requires_grad=False)
    network.eval()
    for _ in range(4):
        assert_alike(results, network, network, alpha_step, x)


def test_copies_and_pickles_find_out_for_themselves(step: Step) -> None:
    network, x = known(step)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(file, weights_only=False)):
        assert launches(other, step, x) == 0
        check(other, step, x)


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


def test_few_kinds_are_known_of_a_part(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST", 2)
    network, _ = small()
    for size in range(2, 6):
        scores(network, *step(torch.randn(size, 16, 8, 8)))
    assert {len(kinds) for kinds in network._launches._known.values()} == {2}


def test_what_is_known_keeps_nothing_alive(step: Step) -> None:
    network, x = small()
    results(network, step, x)
    old, rest = weakref.ref(conv(network).weight), weakref.ref(norm(network))
    replace_parameter(network)
    results(network, step, x)
    gc.collect()
    assert old() is None
    network.blocks[0].mixed.parent = [network.blocks[0]]  # type: ignore[union-attr]
    results(network, step, x)
    del network
    gc.collect()
    assert rest() is None


def test_a_block_that_is_let_go_is_forgotten(step: Step) -> None:
    network, x = known(step)
    block = weakref.ref(network.blocks[1])
    network.blocks[1] = network._like_the_rest(EvolvableBlock(network.evolvable_blocks()[1].spec))
    gc.collect()
    assert block() is None
    check(network, step, x)


def test_other_numbers_of_threads(step: Step) -> None:
    network, x = small()
    twin = copy.deepcopy(network)
    try:
        for threads in (1, 2, 3, 1, 2):
            torch.set_num_threads(threads)
            assert_alike(results, network, twin, step, x)
    finally:
        torch.set_num_threads(1)


def test_threads_that_change_before_backward(step: Step) -> None:
    def run(one: Network) -> list[Tensor | None]:
        given = step(x)
        loss = scores(one, *given).sum()
        torch.set_num_threads(2)
        loss.backward()
        torch.set_num_threads(1)
        return [t.grad for t in given]

    network, x = known(step)
    assert_by_modules(run, network)


def test_several_threads_read_the_parameters_that_are_there() -> None:
    network, _ = small()
    network.eval()
    images = [torch.randn(size, 16, 8, 8) for size in range(1, 33)]
    expected = [by_modules(network, x, path=PATH) for x in images]

    def read(start: int) -> list[bool]:
        with torch.no_grad():
            return [torch.equal(network(images[i % 32], path=PATH), expected[i % 32]) for i in range(start, start + 96)]

    with ThreadPoolExecutor(4) as pool:
        assert all(itertools.chain(*pool.map(read, range(0, 32, 8))))


def test_nothing_is_rehearsed_where_another_thread_may_be_in_backward() -> None:
    network, x = small()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(network, x, path=PATH).result()
        assert [launches(network, weight_step, x) for _ in range(4)] == [0] * 4
    assert [launches(network, weight_step, x) for _ in range(4)][-1] == 6


def test_settings_of_torch(step: Step) -> None:
    @contextlib.contextmanager
    def of_float64() -> Iterator[None]:
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @contextlib.contextmanager
    def nondeterministic() -> Iterator[None]:
        torch.use_deterministic_algorithms(False)
        yield
        torch.use_deterministic_algorithms(True)

    network, x = small()
    twin = copy.deepcopy(network)
    for setting, size in itertools.product((of_float64, nondeterministic, contextlib.nullcontext), (4, 3)):
        for _ in range(3):
            with setting():
                assert_alike(results, network, twin, step, x[:size])


def test_autocast_and_hooks_on_saved_tensors_follow_the_modules(step: Step) -> None:
    network, x = known(step)
    network.eval()
    for _ in range(3):
        with torch.autograd.graph.save_on_cpu():
            assert launches(network, step, x) == 0
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = scores(network, *step(x)), by_modules(scores, network, *step(x))
        assert launched(found) == 0
        assert torch.equal(found, expected)


def test_inference_mode_and_no_grad(step: Step) -> None:
    network, x = small()
    network.eval()
    expected = by_modules(network, x, path=PATH)
    for mode in (torch.inference_mode, torch.no_grad):
        for _ in range(2):
            with mode():
                assert torch.equal(scores(network, *step(x)), expected)
    assert_alike(results, network, network, step, x)


def test_images_of_inference_mode(step: Step) -> None:
    network, x = known(step)
    with torch.inference_mode():
        x = x.contiguous(memory_format=torch.channels_last).clone()
        scores(network, *step(x))

    def gradients(one: Network) -> list[Tensor | None]:
        one.zero_grad()
        given = [x, *step(torch.empty(0))[1:]]
        scores(one, *given).sum().backward()
        return [t.grad for t in (*given[1:], *one.parameters())]

    assert_by_modules(gradients, network)


def test_torch_func_follows_the_modules(step: Step) -> None:
    network, x = known(step, torch.float64)
    network.eval()
    x, *weights = step(x, need_x=False)
    values, tangents = torch.func.jvp(lambda x: network(x, *weights, path=PATH), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(values, by_modules(network, x, path=PATH))
    assert tangents.abs().sum() > 0
    for w in weights:
        of_weights = torch.func.jacrev(lambda w: network(x, w, PATH).sum())(w)
        (by_autograd,) = torch.autograd.grad(scores(network, x, w).sum(), w)
        torch.testing.assert_close(of_weights, by_autograd)


def test_what_stands_in_for_parameters_is_read_and_not_kept(step: Step) -> None:
    network, x = known(step, torch.float64)
    network.eval()
    given = step(x)
    parameters = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _ in range(3):
        found = torch.func.functional_call(network, parameters, tuple(given), {"path": PATH})
        torch.testing.assert_close(found, by_modules(scores, network, *given))
    one = weakref.ref(parameters["stem.0.weight"])
    del parameters, found
    scores(network, *given)
    gc.collect()
    assert one() is None


def test_a_profiler_sees_the_operators(step: Step) -> None:
    network, x = known(step)
    expected = results(copy.deepcopy(network), step, x)
    with torch.profiler.profile() as profile:
        found = results(network, step, x)
    assert_same(found, expected)
    names = [event.name for event in profile.events()]
    for operator in ("conv_norm", "separable_norm") if step is weight_step else ("mixed_norm_sum",):
        assert {f"asose_fast::{operator}_fwd", f"asose_fast::{operator}_bwd"} <= set(names)


def test_a_profiler_that_begins_before_backward_sees_it() -> None:
    network, x = known(weight_step)
    expected = results(network, weight_step, x)
    network.zero_grad()
    (given,) = weight_step(x)
    loss = network(given, path=PATH).square().mean()
    assert launched(loss) == 6
    with torch.profiler.profile() as profile:
        loss.backward()
    assert "asose_fast::conv_norm_bwd" in [event.name for event in profile.events()]
    found = [given.grad, *(p.grad for p in network.parameters())]
    assert_same(found, expected[1 : 1 + len(found)])


@pytest.mark.parametrize("around", ["all", "backward"])
def test_a_mode_sees_the_operators(around: str, step: Step) -> None:
    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    def operators() -> list[str]:
        names, given = Names(), step(x)
        with names if around == "all" else contextlib.nullcontext():
            loss = scores(network, *given).sum()
        with names:
            loss.backward()
        return [name for name in names.seen if name.startswith("asose_fast")]

    network, x = known(step)
    assert len(operators()) >= 6
    assert operators() == by_modules(operators)


def test_second_derivatives() -> None:
    network, x = known(weight_step, torch.float64)

    def penalty() -> list[Tensor]:
        given = x.clone().requires_grad_()
        (of_x,) = torch.autograd.grad(network(given, path=PATH).square().sum(), given, create_graph=True)
        wanted = [given, *(p for p in network.parameters() if p.requires_grad)]
        found = torch.autograd.grad(of_x.square().sum(), wanted, allow_unused=True)
        return [t for t in found if t is not None]

    for training in (False, True):
        network.train(training)
        network(x, path=PATH)
        for a, b in zip(penalty(), by_modules(penalty), strict=True):
            torch.testing.assert_close(a, b)


def test_second_derivatives_of_weights_are_refused() -> None:
    network, x = known(alpha_step)
    x, weights = alpha_step(x)
    loss = scores(network, x, weights).square().sum()
    assert launched(loss) == 6
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, weights, create_graph=True)


def test_several_gradients_at_once_and_twice(step: Step) -> None:
    network, x = known(step, torch.float64)
    network.eval()

    def jacobian() -> list[Tensor]:
        given = step(x)
        y = scores(network, *given)[0, :3]
        rows = torch.autograd.grad(y, given, torch.eye(3, dtype=y.dtype), retain_graph=True, is_grads_batched=True)
        once, twice = (torch.autograd.grad(y.sum(), given, retain_graph=True) for _ in range(2))
        assert all(map(torch.equal, once, twice))
        return [*rows, *once]

    for _ in range(3):
        for a, b in zip(jacobian(), by_modules(jacobian), strict=True):
            torch.testing.assert_close(a, b)


def test_several_gradients_at_once_leave_running_statistics(step: Step) -> None:
    network, x = known(step)
    given = step(x)
    y = scores(network, *given)[0, :3]
    before = [buffer.clone() for buffer in network.buffers()]
    torch.autograd.grad(y, given, torch.eye(3), is_grads_batched=True)
    assert_same(before, list(network.buffers()))


def test_backward_lets_go_of_what_it_needed(step: Step) -> None:
    network, x = known(step)
    loss = scores(network, *step(x)).sum()
    (node,) = nodes(loss)
    loss.backward(retain_graph=True)
    assert (len(node.between), len(node.kept)) == (5, 6)
    loss.backward()
    assert node.between is None is node.kept
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_parameters_that_are_written_before_backward_are_an_error(step: Step) -> None:
    network, x = small()
    for _ in range(3):
        loss = scores(network, *step(x)).sum()
        write(network)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert launched(loss) == 6


def test_parameters_that_are_moved_before_backward_are_read_where_they_are(step: Step) -> None:
    def moved(one: Network) -> list[Tensor | None]:
        one.zero_grad()
        given = step(x)
        loss = scores(one, *given).sum()
        for parameter in one.parameters():
            parameter.data = parameter.data.clone()
        loss.backward()
        return [t.grad for t in (*given, *one.parameters())]

    network, x = known(step)
    assert_by_modules(moved, network)


@pytest.mark.parametrize("other", [torch.clone, Tensor.contiguous])
def test_images_that_change_before_backward_are_those_of_the_modules(
    other: Callable[[Tensor], Tensor], step: Step
) -> None:
    def swapped(one: Network) -> list[Tensor | None]:
        one.zero_grad()
        given = step(x.clone())
        loss = scores(one, *given).square().sum()
        given[0].data = other(given[0].data)
        loss.backward()
        return [t.grad for t in (*given, *one.parameters())]

    network, x = known(step, format=torch.channels_last)
    assert_by_modules(swapped, network)


def test_images_without_memory_are_an_error(step: Step) -> None:
    network, x = known(step, format=torch.channels_last)
    loss = scores(network, *step(x)).sum()
    given = step(x)
    x.untyped_storage().resize_(0)
    for run in (loss.backward, functools.partial(scores, network, *given)):
        with pytest.raises(ValueError, match="no memory"):
            run()

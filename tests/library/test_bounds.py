"""Bounds on what is derived from a network of one's own."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import asose_fast
from asose_fast import MixedOp
from asose_fast.engine.alpha.budget import BudgetError
from asose_fast.engine.alpha.pool import Pool
from asose_fast.library.budget import ModuleBudget
from asose_fast.library.loaders import Passes
from asose_fast.library.selector import MaskedSelector
from asose_fast.space.custom import CustomNetwork
from tests.library.networks import Choices, batches, small

DEVICE = torch.device("cpu")


def make(layers=3):
    """Layers of 3 features with one, two or three candidates: 12 paths of three."""
    torch.manual_seed(0)
    wide = [nn.Sequential(nn.Linear(3, n), nn.Tanh(), nn.Linear(n, 3)) for n in (20, 10, 5)]
    ops = {"linear": nn.Linear(3, 3), "skip": nn.Identity()}
    rows = [
        MixedOp({"wide": wide[0], **ops}),
        MixedOp({"narrow": wide[1], "linear": nn.Linear(3, 3)}),
        MixedOp({"narrow": wide[2], "skip": nn.Identity()}),
    ]
    return nn.Sequential(*rows[:layers], nn.Linear(3, 2))


def cost(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def sizes():
    network = CustomNetwork(make())
    return {path: cost(network.derive(path).model) for path in itertools.product(*network.columns)}


def find(config, **more):
    return asose_fast.search(make(), (batches(), batches(seed=1)), config, **more)


@pytest.mark.parametrize("chosen", [{}, {"derive_among": 4}, {"derive_among": 4, "derive_by": "evolution"}])
def test_what_is_derived_keeps_its_bounds(chosen):
    every = sizes().values()
    within = [(p, f) for p, f in every if 40 <= p <= 130 and f <= 250]
    assert 0 < len(within) < len(every)
    bounds = {"derive_max_parameters": 130, "derive_min_parameters": 40, "derive_max_flops": 250}
    for seed in range(3):
        found = find(small(seed=seed, **bounds, **chosen))
        assert cost(found.network) in within


def test_finals_keep_bounds_too():
    config = {"derive_max_parameters": 130, "finals_epochs": 3, "finals_paths": 3, "finals_from": "uniform"}
    for seed in range(2):
        assert cost(find(small(seed=seed, **config)).network)[0] <= 130


def test_uniform_paths_have_what_their_rows_have():
    network = CustomNetwork(make())
    config = small(derive_max_parameters=130)
    keeper = ModuleBudget(config, Passes("training", batches(), DEVICE, 0))
    selector = MaskedSelector(config, network, 0, DEVICE)
    paths = Pool(network, keeper, selector.logits().detach().log_softmax(1), 0).uniform(100)
    assert sorted(map(tuple, paths)) == sorted(path for path, (p, _) in sizes().items() if p <= 130)


def test_a_bound_moves_alpha():
    """The bound from below needs what alpha leaves where only the loss counts."""
    phases = [asose_fast.PhaseSpec("search", 8)]
    shares = []
    for weight in (0.0, 100.0):
        config = small(derive_min_flops=300, alpha_learning_rate=0.3, budget_weight=weight)
        alpha = find(config, phases=phases).alpha["0"]
        shares.append(float(torch.tensor(list(alpha.values())).softmax(0)[0]))
    assert shares[0] < 0.1 < 0.5 < shares[1]


def test_the_share_of_the_dearest_binds():
    found = find(small(derive_min_share=0.95))
    assert cost(found.network)[1] >= 0.95 * max(flops for _, flops in sizes().values())


def test_bounds_that_nothing_keeps_are_refused_before_the_search():
    least = min(p for p, _ in sizes().values())
    with pytest.raises(BudgetError, match=rf"derive_max_parameters = 2 \(the least is {least}\)"):
        find(small(derive_max_parameters=2))


def test_a_mixed_operation_within_a_candidate_takes_no_bounds():
    with pytest.raises(ValueError, match="within a candidate of"):
        asose_fast.search(Choices(), (batches(), batches(seed=1)), small(derive_max_flops=10**9))

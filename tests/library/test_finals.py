"""Finals in a network of one's own."""

import pytest
import torch

import asose_fast
from asose_fast import PhaseSpec
from tests.library.networks import Choices, batches, small

TIMINGS = ("seconds", "images_per_second", "health")


def without_timings(history):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in history]


def find(folder=None, observers=(), **settings):
    torch.manual_seed(1)
    loaders = batches(), batches(seed=1)
    config = small(finals_epochs=3, finals_paths=4, optimize_epochs=2, **settings)
    return asose_fast.search(Choices(), loaders, config, folder=folder, observers=observers)


def test_a_network_of_ones_own():
    """Its winner need not be the most probable, and the genotype is that of the winner."""
    winners = 0
    for seed in range(4):
        result = find(seed=seed)
        assert [r["phase"] for r in result.history] == ["warmup", *["search"] * 2, *["finals"] * 3, *["optimize"] * 2]
        last = [rung for r in result.history for rung in r.get("finals", [])][-1]
        operations = last["finalists"][0]["operations"]
        assert set(result.genotype.values()) <= set(operations)
        assert result.genotype["layers.1"] == operations[2]
        assert result.genotype["shared"] == operations[3]
        assert result.history[-1]["path"] == operations
        winners += any(
            chosen != max(result.alpha[name], key=result.alpha[name].get) for name, chosen in result.genotype.items()
        )
    assert winners


def test_the_genotype_is_that_of_the_network_where_validation_chose_it():
    others = 0
    for seed in range(6):
        torch.manual_seed(1)
        result = asose_fast.search(Choices(), (batches(), batches(seed=1)), small(derive_among=5, seed=seed))
        operations = result.history[-1]["path"]
        assert (result.genotype["layers.1"], result.genotype["shared"]) == (operations[2], operations[3])
        others += any(k != max(result.alpha[name], key=result.alpha[name].get) for name, k in result.genotype.items())
    assert others


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path):
    class Stop(asose_fast.Observer):
        def on_step(self, state):
            if state.finals is not None and state.finals.bracket.done == 7:
                raise KeyboardInterrupt

    whole = find(checkpoint_steps=1)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, [Stop()], checkpoint_steps=1)
    again = find(tmp_path, checkpoint_steps=1)
    assert again.genotype == whole.genotype
    assert without_timings(again.history) == without_timings(whole.history)
    ours, theirs = again.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_schedule_has_finals_where_a_derived_network_follows():
    warm = PhaseSpec("warm", 1, updates="weights", architecture="uniform")
    contest = PhaseSpec("contest", 6, updates="weights", architecture="finalists")
    tune = PhaseSpec("tune", 1, updates="weights", architecture="derived")
    loaders = batches(), batches(seed=1)
    result = asose_fast.search(Choices(), loaders, small(), phases=[warm, contest, tune])
    assert [r["phase"] for r in result.history] == ["warm", *["contest"] * 6, "tune"]
    assert sum(len(r.get("finals", [])) for r in result.history) == 3
    for phases in ([warm, contest], [contest, warm, tune]):
        with pytest.raises(ValueError, match="put a phase of it behind 'contest'"):
            asose_fast.search(Choices(), loaders, small(), phases=phases)

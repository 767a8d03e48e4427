"""Searches in networks whose modules hold results of a computation: activations, weights made before each call."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

import asose_fast
from asose_fast import MixedOp, Searcher
from asose_fast.space.copying import deepcopy
from tests.library.networks import WIDTH, batches, small


class Keeping(nn.Module):
    """Keeps what it saw last, as attribution methods do, and says so in its state."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.seen = []
        self.register_buffer("last", torch.zeros(()), persistent=False)

    def forward(self, x):
        y = self.linear(x)
        self.seen, self.last = [{"output": y.tanh()}], y
        return y

    def get_extra_state(self):
        return {"seen": len(self.seen)}

    def set_extra_state(self, state):
        pass


MAKE = {
    "keeping": Keeping,
    "weight_norm": lambda: weight_norm(nn.Linear(WIDTH, WIDTH)),
    "prune": lambda: prune.l1_unstructured(nn.Linear(WIDTH, WIDTH), "weight", 0.5),
}


class Model(nn.Module):
    """With such a module outside and inside of a mixed operation."""

    def __init__(self, make):
        super().__init__()
        self.stem, self.outside = nn.Linear(3, WIDTH), make()
        self.mixed = MixedOp({"a": make(), "tanh": nn.Tanh()})
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(self.mixed(self.outside(self.stem(x))))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("guard", ["off", "rollback"])
def test_a_search_ends_with_a_network_of_its_own(tmp_path, make, guard):
    torch.manual_seed(0)
    model = Model(MAKE[make])
    config = small(guard=guard, optimize_epochs=2)
    result = asose_fast.search(model, (batches(), batches(seed=1), batches(seed=2)), config, folder=tmp_path)
    copy.deepcopy(result.network)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in result.network.parameters()}
    assert not shared
    found = sum((result.network(x).argmax(1) == y).sum().item() for x, y in batches(seed=2)) / 40
    assert result.test_score == found


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", MAKE)
def test_a_searcher_derives_after_steps(make):
    model = Model(MAKE[make])
    searcher = Searcher(model)
    (x, y), *_ = batches()
    searcher.alpha_step(lambda: nn.functional.cross_entropy(model(x), y))
    nn.functional.cross_entropy(model(x), y).backward()
    derived = searcher.derive()
    assert {id(p) for p in derived.parameters()} <= {id(p) for p in model.parameters()}
    torch.testing.assert_close(derived(x), model(x))


def test_a_copy_holds_values_and_keeps_what_is_one():
    weight = torch.ones(2, requires_grad=True)
    result = weight * 3
    copied = deepcopy({"leaf": weight, "results": [result, result], "other": (1, "a")})
    assert copied["results"][0] is copied["results"][1]
    assert copied["results"][0] is not result
    assert copied["results"][0].tolist() == [3.0, 3.0]
    assert copied["results"][0].is_leaf
    assert copied["leaf"].requires_grad
    assert copied["leaf"] is not weight
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(result)

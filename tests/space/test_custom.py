"""Any network as a supernet: rows, gradients, and what is derived from it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast import MixedOp
from asose_fast.space.custom import CustomNetwork
from tests.library.networks import NAMES, Choices, Scaled, batches

PATH = ("deep", "tanh", "linear", "scaled")


def make(path=PATH):
    network = CustomNetwork(Choices().double())
    return network, [network.candidates.index(name) for name in path]


def one_hot(network, path):
    return F.one_hot(torch.tensor(path), len(network.candidates)).double()


def x_and_y():
    x, y = batches()[0]
    return x.double(), y


def test_rows_are_found_wherever_they_are_and_once():
    network, _ = make()
    assert list(network.mixed) == NAMES
    assert network.candidates == ("deep", "skip_connect", "scaled", "tanh", "sin", "linear")
    assert network.available.sum(1).tolist() == [3, 2, 2, 2]


def test_alpha_gradient_is_that_of_autograd_in_float64():
    network, path = make()
    x, y = x_and_y()
    weights = one_hot(network, path).requires_grad_()
    F.cross_entropy(network(x, weights, path), y).backward()

    model, plain = network.model, one_hot(network, path).requires_grad_()

    def mixed(name, x):
        row, op = NAMES.index(name), network.mixed[name]
        outputs = {n: m(x) if n != "deep" else mixed(NAMES[1], m[0](x)) for n, m in op.ops.items()}
        return sum(plain[row, network.candidates.index(n)] * o for n, o in outputs.items())

    h = mixed("shared", model.stem(x))
    for name in ("layers.0", "layers.1"):
        h = h + mixed(name, h)
    F.cross_entropy(model.head(mixed("shared", h)), y).backward()
    torch.testing.assert_close(weights.grad, plain.grad, rtol=1e-12, atol=1e-14)
    assert (plain.grad[network.available] != 0).all()
    assert (weights.grad[~network.available] == 0).all()


def test_derived_network_is_the_path_in_value_and_gradient():
    network, path = make()
    x, y = x_and_y()
    F.cross_entropy(network(x, path=path), y).backward()
    expected, gradients = (
        network(x, path=path),
        {id(p): p.grad.clone() for p in network.parameters() if p.grad is not None},
    )
    for p in network.parameters():
        p.grad = None
    derived = network.derive(path)
    assert not any(isinstance(m, MixedOp) for m in derived.modules())
    assert torch.equal(derived(x), expected)
    F.cross_entropy(derived(x), y).backward()
    own = {id(p): p for p in network.parameters()}
    for p in derived.parameters():
        assert own[id(p)] is p
        assert torch.equal(p.grad, gradients[id(p)])
    assert derived.model.shared is derived.model.shared
    assert isinstance(derived.model.layers[0][1], nn.Tanh)
    assert derived.operations == PATH


def test_derived_network_is_a_plain_copyable_module_that_leaves_the_supernet_alone():
    network, path = make()
    x, _ = x_and_y()
    weights = one_hot(network, path).requires_grad_()
    before = network(x, 1.0 * weights, path).detach()  # leaves a plan with a graph behind
    copied = copy.deepcopy(network.derive(path).model)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert torch.equal(network(x, weights, path), before)
    copy.deepcopy(network.model)


@pytest.mark.parametrize(
    ("path", "expected"),
    [(PATH, dict(zip(NAMES, PATH, strict=True))),
     (("scaled", "tanh", "tanh", "tanh"), {"layers.0": "scaled", "layers.1": "tanh", "shared": "tanh"})],
)  # fmt: skip
def test_genotype_has_what_is_left(path, expected):
    network, path = make(path)
    assert network.genotype(path) == expected


def test_an_inner_operation_that_is_used_elsewhere_too():
    inner = MixedOp({"a": Scaled(), "b": nn.Tanh()})

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = inner
            self.outer = MixedOp({"again": nn.Sequential(inner), "c": nn.Tanh()})

        def forward(self, x):
            return self.outer(self.first(x))

    network = CustomNetwork(Twice())
    path = [network.candidates.index(name) for name in ("a", "again")]
    derived = network.derive(path).model
    assert derived.first is derived.outer[0]
    x = torch.randn(2, 6)
    assert torch.equal(derived(x), network(x, path=path))


def test_the_model_may_be_a_mixed_operation():
    network = CustomNetwork(MixedOp({"a": nn.Tanh(), "b": nn.Identity()}))
    assert isinstance(network.derive([1]).model, nn.Identity)
    assert network.genotype([0]) == {"": "a"}


def test_buffers_are_shared_and_modes_kept():
    model = nn.Sequential(MixedOp({"norm": nn.BatchNorm1d(3), "skip": nn.Identity()}))
    network = CustomNetwork(model)
    derived = network.derive([0])
    derived(torch.randn(5, 3))
    assert int(model[0].ops["norm"].num_batches_tracked) == 1
    assert not network.eval().derive([0]).model.training


def test_a_model_without_a_choice_is_refused():
    with pytest.raises(ValueError, match="no mixed operation"):
        CustomNetwork(nn.Linear(2, 2))

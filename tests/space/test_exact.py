"""A module that differs from its class in any way is run as it is, under the fused plan too."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

from asose_fast.space import CANDIDATES, MixedOp
from asose_fast.space.exact import computes
from asose_fast.space.stacked import Branches

NAMES = tuple(CANDIDATES)
PARTS = {
    "conv": "sep_conv_3x3.5",
    "pointwise": "dil_conv_5x5.2",
    "line": "conv_7x1_1x7.1",
    "half": "skip_connect.even",
    "reduction": "skip_connect",
    "norm": "sep_conv_5x5.3",
    "relu": "sep_conv_7x7.4",
    "pool": "max_pool_3x3.0",
    "sequence": "dil_conv_3x3",
}
CONVS = ["conv", "pointwise", "line", "half"]


def pair(stride=2):
    plain = MixedOp.named(NAMES, 4, stride, fused=False).double()
    return plain, copy.deepcopy(plain)


def assert_plans_agree(plain, fused, extra=()):
    """In value, in all gradients, those of `extra` included, which both must have, and in buffers."""
    found = []
    for mixed, leaves in ((plain, extra and extra[0]), (fused, extra and extra[1])):
        mixed.fused = mixed is fused
        torch.manual_seed(0)
        x = torch.randn(2, 4, 6, 6).double().requires_grad_()
        y = mixed(x, torch.linspace(0.1, 1, len(mixed.ops)).double())
        y.square().sum().backward()
        assert all(leaf.grad.any() for leaf in leaves)
        found.append([y.detach(), x.grad, *(leaf.grad for leaf in leaves), *(b.detach() for b in mixed.buffers())])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


class Adapter:
    """As LoRA does it: a `forward` of its own that adds to what the module gives."""

    def __init__(self, module):
        self.module, self.forward = module, module.forward
        self.gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def __call__(self, x):
        return self.forward(x) * (1 + self.gain)


@pytest.mark.parametrize("part", PARTS)
def test_a_forward_of_an_instance_is_called(part):
    mixed = pair()
    adapters = []
    for m in mixed:
        module = m.ops.get_submodule(PARTS[part])
        module.forward = Adapter(module)
        adapters.append([module.forward.gain])
    assert_plans_agree(*mixed, adapters)


@pytest.mark.parametrize("part", CONVS)
def test_a_convolution_of_an_instance_is_called(part):
    mixed = pair()
    for m in mixed:
        conv = m.ops.get_submodule(PARTS[part])
        conv._conv_forward = lambda *args, conv=conv: 3 * type(conv)._conv_forward(conv, *args)
    assert_plans_agree(*mixed)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: weight_norm(m),
        lambda m: nn.utils.parametrizations.weight_norm(m),
        lambda m: spectral_norm(m),
        lambda m: nn.utils.parametrizations.spectral_norm(m),
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        lambda m: parametrize.register_parametrization(m, "weight", nn.Tanh()),
        lambda m: prune.remove(prune.l1_unstructured(m, "weight", 0.5), "weight"),
    ],
    ids=["weight_norm", "parametrized weight_norm", "spectral_norm", "parametrized spectral_norm", "prune",
         "parametrize", "prune and remove"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("part", CONVS)
def test_a_weight_that_is_computed_is_computed(change, part):
    mixed = pair()
    for m in mixed:
        torch.manual_seed(1)
        change(m.ops.get_submodule(PARTS[part]))
    leaves = [list(m.ops.get_submodule(PARTS[part]).parameters()) for m in mixed]
    assert_plans_agree(*mixed, leaves)


def test_a_weight_that_is_no_parameter_has_its_gradient():
    mixed, sources = pair(), []
    for m in mixed:
        conv = m.ops.get_submodule(PARTS["pointwise"])
        sources.append([conv.weight.detach().clone().requires_grad_()])
        del conv.weight
        conv.weight = sources[-1][0] * 2
    assert_plans_agree(*mixed, sources)


HOOKS = {
    "forward": lambda m, call: m.register_forward_hook(lambda *_: call()),
    "forward with keywords": lambda m, call: m.register_forward_hook(lambda *_: call(), with_kwargs=True),
    "always": lambda m, call: m.register_forward_hook(lambda *_: call(), always_call=True),
    "pre": lambda m, call: m.register_forward_pre_hook(lambda *_: call()),
    "pre with keywords": lambda m, call: m.register_forward_pre_hook(lambda *_: call(), with_kwargs=True),
    "backward": lambda m, call: m.register_full_backward_hook(lambda *_: call()),
    "backward pre": lambda m, call: m.register_full_backward_pre_hook(lambda *_: call()),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("part", PARTS)
def test_hooks_are_called(hook, part):
    _, mixed = pair()
    mixed.fused, calls = True, []
    HOOKS[hook](mixed.ops.get_submodule(PARTS[part]), lambda: calls.append(part))
    mixed(torch.randn(2, 4, 6, 6).double().requires_grad_(), torch.rand(10)).sum().backward()
    assert calls == [part]


@pytest.mark.parametrize(
    "register",
    [
        lambda call: modules.register_module_forward_hook(lambda m, *_: call(m)),
        lambda call: modules.register_module_forward_pre_hook(lambda m, *_: call(m)),
        lambda call: modules.register_module_full_backward_hook(lambda m, *_: call(m)),
        lambda call: modules.register_module_full_backward_pre_hook(lambda m, *_: call(m)),
    ],
    ids=["forward", "pre", "backward", "backward pre"],
)
def test_hooks_on_all_modules_are_called(register):
    _, mixed = pair(1)
    mixed.fused, seen = True, []
    handle = register(lambda m: seen.append(m) and None)
    try:
        x = torch.randn(2, 4, 6, 6).double().requires_grad_()
        mixed(x, torch.rand(10)).sum().backward()
        sampled = mixed.ops["skip_connect"]
        once = seen.count(sampled)
        mixed(x, index=NAMES.index("skip_connect"), gain=torch.tensor(0.5)).sum().backward()
        assert seen.count(sampled) == once + 1
    finally:
        handle.remove()
    some = [m for name, op in mixed.ops.items() if name != "none" for m in op.modules()]  # `none` has no gradient
    assert all(any(m is other for other in seen) for m in some)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(nn.Conv2d, "forward"), (nn.Conv2d, "_conv_forward"), (nn.BatchNorm2d, "forward"), (nn.ReLU, "forward"),
     (nn.Module, "__call__"), (nn.Conv2d, "__call__"), (nn.Sequential, "forward"), (nn.MaxPool2d, "forward")],
)  # fmt: skip
def test_a_replaced_method_of_a_class_is_called(monkeypatch, kind, name):
    mixed, calls = pair(), []
    before = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *a, **k: calls.append(self) or before(self, *a, **k))
    assert_plans_agree(*mixed)
    own = [sum(any(c is m for m in each.ops.modules()) for c in calls) for each in mixed]
    assert own[0] == own[1] > 0


class Doubled(torch.Tensor):
    """As quantized and distributed weights are: what it stands for is not what its memory holds."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.conv2d:
            with torch._C.DisableTorchFunctionSubclass():
                x, weight, *rest = args
                return func(x, 2 * weight.as_subclass(torch.Tensor), *rest)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_weight_of_a_tensor_subclass_is_read_by_its_module():
    mixed = pair()
    for m in mixed:
        conv = m.ops.get_submodule(PARTS["pointwise"])
        conv.weight = nn.Parameter(conv.weight.detach().as_subclass(Doubled))
    assert_plans_agree(*mixed)


def test_modules_of_other_types_are_not_taken_for_theirs():
    conv = nn.Conv2d(4, 4, 1)
    assert computes(conv, nn.Conv2d)
    assert not computes(torch.compile(conv), nn.Conv2d)
    assert not computes(nn.LazyConv2d(4, 1), nn.Conv2d)
    assert not computes(torch.ao.nn.quantized.Conv2d(4, 4, 1), nn.Conv2d)
    conv.compile()
    assert not computes(conv, nn.Conv2d)


def test_hooks_on_states_do_no_harm():
    op = MixedOp.named(("sep_conv_3x3",), 4, 1).ops["sep_conv_3x3"]
    for module in op.modules():
        module.register_state_dict_pre_hook(lambda *_: None)
        module.register_load_state_dict_post_hook(lambda *_: None)
        module.register_load_state_dict_pre_hook(lambda *_: None)
    assert Branches.of({0: op}, 1).separable


def test_offloaded_parameters_are_fetched():
    accelerate = pytest.importorskip("accelerate")
    mixed = pair(1)
    x, weights = torch.randn(2, 4, 6, 6).double(), torch.rand(10)
    for m in mixed:
        m.eval()
    accelerate.cpu_offload(mixed[1].ops["sep_conv_3x3"], execution_device="cpu")
    assert next(mixed[1].ops["sep_conv_3x3"].parameters()).is_meta
    mixed[1].fused = True
    with torch.no_grad():
        torch.testing.assert_close(mixed[1](x, weights), mixed[0](x, weights))


def test_a_candidate_may_be_replaced_between_steps():
    plain, fused = pair(1)
    for other in (MixedOp.named(NAMES, 4, 1).double().ops["sep_conv_7x7"], nn.Conv2d(4, 4, 1).double()):
        for m in (plain, fused):
            m.ops["sep_conv_3x3"] = copy.deepcopy(other)
        assert_plans_agree(plain, fused)


def test_parameters_given_by_functional_call_have_their_gradients():
    mixed = pair()
    grads = []
    x = torch.randn(2, 4, 6, 6).double()
    for m in mixed:
        m.fused = m is mixed[1]
        given = {name: p.detach().clone().requires_grad_() for name, p in m.named_parameters()}
        y = torch.func.functional_call(m, given, (x, torch.ones(10)))
        grads.append(torch.autograd.grad(y.square().sum(), list(given.values())))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("bias", [False, True])
def test_the_halves_of_a_reduction_may_differ(bias):
    mixed = pair()
    for m in mixed:
        torch.manual_seed(3)
        m.ops["skip_connect"].even = nn.Conv2d(4, 2, 1, bias=bias).double()
    assert_plans_agree(*mixed)

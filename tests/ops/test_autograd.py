"""What PyTorch does with an operator besides calling it: second derivatives, forward mode, torch.func, tracing,
inference mode. Every public operator, against plain PyTorch."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from asose_fast import ops
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.reference.arch_weights import reference as arch_weights_reference
from asose_fast.space import CANDIDATES, MixedOp
from tests.ops import cases
from tests.ops.cases import random

CASES = {name: make for module in cases.modules() for name, make in getattr(module, "DIFFERENTIABLE", {}).items()}
EVERY_OPERATOR = pytest.mark.parametrize("name", CASES)
WITHOUT_MODULES = pytest.mark.parametrize("name", [name for name, make in CASES.items() if not make()[2]])


def operator(name):
    """The operator as a function of tensors, such tensors, and the modules whose parameters go after them."""
    torch.manual_seed(0)
    return CASES[name]()


def as_tuple(result):
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def leaves_of(tensors, modules):
    return [t.requires_grad_() for t in tensors] + list(modules.parameters())


@EVERY_OPERATOR
def test_second_derivatives(name):
    run, tensors, modules = operator(name)
    assert gradgradcheck(run, leaves_of(tensors, modules))


@EVERY_OPERATOR
def test_first_derivatives_are_the_same_where_a_second_is_wanted(name):
    run, tensors, modules = operator(name)
    leaves = leaves_of(tensors, modules)
    y = as_tuple(run(*tensors))
    grads = [torch.randn_like(t) for t in y]
    before = copy.deepcopy(modules.state_dict())
    once, twice = (
        torch.autograd.grad(y, leaves, grads, allow_unused=True, retain_graph=True, create_graph=again)
        for again in (False, True)
    )
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b)
    for key, value in modules.state_dict().items():
        assert torch.equal(value, before[key]), key


@EVERY_OPERATOR
def test_any_second_derivative_can_be_had_alone(name):
    """What the kernels do not need for a gradient was not kept, and is not needed for its derivative either."""
    run, tensors, modules = operator(name)
    leaves = leaves_of(tensors, modules)

    def second(leaf, tracked):
        for other in leaves:
            other.requires_grad_(any(other is t for t in tracked))
        y = as_tuple(run(*tensors))
        torch.manual_seed(1)
        grads = [torch.randn_like(t).requires_grad_() for t in y]
        (first,) = torch.autograd.grad(y, leaf, grads, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [leaf, *grads], materialize_grads=True, allow_unused=True)

    for leaf in leaves:
        torch.testing.assert_close(second(leaf, [leaf]), second(leaf, leaves))


@WITHOUT_MODULES
def test_forward_mode_and_batched_gradients(name):
    run, tensors, modules = operator(name)
    leaves = leaves_of(tensors, modules)
    batches = {
        "check_batched_grad": True,
        "check_batched_forward_grad": "pool" not in name or "average" in name,
    }  # max_pool2d has none
    assert gradcheck(run, leaves, check_forward_ad=True, **batches)


@EVERY_OPERATOR
def test_tangents_are_those_of_backward(name):
    """<tangent of y, g> = <t, gradient of x>"""
    run, tensors, modules = operator(name)
    tangents = [torch.randn_like(t) for t in tensors]
    twin = copy.deepcopy(modules)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, tangent) for t, tangent in zip(tensors, tangents, strict=True)]
        found = [forward_ad.unpack_dual(y).tangent for y in as_tuple(run(*duals))]
    for module, before in zip(modules, twin, strict=True):
        module.load_state_dict(before.state_dict())
    y = as_tuple(run(*[t.requires_grad_() for t in tensors]))
    grads = [torch.randn_like(t) for t in y]
    backward = torch.autograd.grad(y, tensors, grads)
    expected = sum((t * g).sum() for t, g in zip(tangents, backward, strict=True))
    torch.testing.assert_close(sum((t * g).sum() for t, g in zip(found, grads, strict=True)), expected)


@WITHOUT_MODULES
def test_transforms_of_torch_func(name):
    run, tensors, _ = operator(name)

    def loss(*tensors):
        return sum(y.square().sum() for y in as_tuple(run(*tensors)))

    everything = tuple(range(len(tensors)))
    expected = torch.autograd.grad(loss(*[t.requires_grad_() for t in tensors]), tensors)
    torch.testing.assert_close(torch.func.grad(loss, everything)(*tensors), expected)
    batches = [torch.stack([t.detach(), 2 * t.detach()]) for t in tensors]
    single = [as_tuple(run(*[b[i] for b in batches])) for i in range(2)]
    for got, *each in zip(as_tuple(torch.func.vmap(run)(*batches)), *single, strict=True):
        torch.testing.assert_close(got, torch.stack(each))


@EVERY_OPERATOR
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_a_trace_computes_what_the_operator_does(name):
    run, tensors, modules = operator(name)
    twin = copy.deepcopy(modules)
    modules.requires_grad_(False)
    trace = torch.jit.trace(run, tuple(tensors), check_trace=False)
    for module, before in zip(modules, twin, strict=True):
        module.load_state_dict(before.state_dict())
    others = [torch.randn_like(t) for t in tensors]
    torch.testing.assert_close(as_tuple(trace(*others)), as_tuple(run(*others)))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_a_trace_of_statistics_and_of_samples():
    trace = torch.jit.trace(lambda x: batch_statistics([x, 2 * x]), (random(2, 3, 4, 4),))
    x = random(5, 3, 4, 4)
    torch.testing.assert_close(trace(x), batch_statistics([x, 2 * x]))
    rng = torch.tensor([1, 2])
    trace = torch.jit.trace(
        lambda a, rng: ops.arch_weights(a, 0.5, boost=ops.Boost(), rng=rng)[:2], (random(2, 5), rng)
    )
    a, rng = random(2, 5), rng + 5
    torch.testing.assert_close(trace(a, rng), ops.arch_weights(a, 0.5, boost=ops.Boost(), rng=rng)[:2])


@EVERY_OPERATOR
def test_tensors_of_inference_mode(name):
    run, tensors, modules = operator(name)
    twin = copy.deepcopy(modules)
    with torch.inference_mode():
        made, values = [t.clone() for t in tensors], as_tuple(run(*tensors))
    for module, before in zip(modules, twin, strict=True):
        module.load_state_dict(before.state_dict())
    for k in range(1, len(tensors)):
        first = as_tuple(run(*made[:k], *[t.detach().requires_grad_() for t in tensors[k:]]))
        torch.testing.assert_close(first, values)
        sum(y.sum() for y in first if y.requires_grad).backward()


@pytest.mark.parametrize("hard", [False, True])
def test_second_derivatives_of_a_sample(hard):
    logits, noise = random(3, 4).requires_grad_(), random(3, 4)
    grad = random(3, 4)
    found = []
    for function in (ops.arch_weights, arch_weights_reference):
        weights = function(logits, 0.7, hard=hard, noise=noise, boost=ops.Boost(2, 0.5, 0.9, -1, -1)).weights
        (first,) = torch.autograd.grad(weights, logits, grad, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), logits, create_graph=True)
        found.append((first, second, *torch.autograd.grad(second.sum(), logits)))
    torch.testing.assert_close(*found)


def mixed_operation(fused):
    torch.manual_seed(0)
    return MixedOp.named(tuple(CANDIDATES), 3, 1, fused=fused).double(), random(2, 3, 5, 5), torch.rand(10).double()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_mixed_operation_in_forward_mode_and_torch_func(fused, hard):
    mixed, x, weights = mixed_operation(fused)
    mixed.eval()  # torch.func lets no module update its running statistics
    plan = {}
    if hard:
        weights, plan = nn.functional.one_hot(torch.tensor(4), 10).double(), {"index": 4}
    twin = copy.deepcopy(mixed)

    def run(x, weights):
        return mixed(x, weights, **plan).square().sum()

    def plain(x, weights):
        return sum(w * op(x) for w, op in zip(weights, twin.ops.values(), strict=True)).square().sum()

    tangents = random(2, 3, 5, 5), random(10)
    torch.testing.assert_close(*(torch.func.jvp(f, (x, weights), tangents) for f in (run, plain)))
    torch.testing.assert_close(*(torch.func.grad(f, (0, 1))(x, weights) for f in (run, plain)))

    def penalty(f):
        return lambda x, weights: torch.func.grad(f)(x, weights).square().sum()

    torch.testing.assert_close(*(torch.func.grad(penalty(f), (0, 1))(x, weights) for f in (run, plain)))


@pytest.mark.parametrize("fused", [False, True])
def test_a_mixed_operation_of_an_input_made_in_inference_mode(fused):
    mixed, x, weights = mixed_operation(fused)
    mixed.requires_grad_(False).eval()
    with torch.inference_mode():
        made, inside = x.clone(), mixed(x, weights)
    found = []
    for given in (x, made):
        leaf = weights.clone().requires_grad_()
        y = mixed(given, leaf)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaf)))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(inside, found[0][0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_compiled_without_gradients_whatever_the_number_of_tensors(count):
    """Of the kind: a Function that torch.compile follows for some numbers of arguments alone."""
    torch.compiler.reset()
    x, weights = random(2, 4, 5, 5), random(count)
    kernels, matrices = [random(4, 1, 3, 3)] * count, [random(4, 4, 1, 1)] * count
    norms, ones = [nn.BatchNorm2d(4).double().eval()] * count, [1] * count
    mixed = MixedOp.named(tuple(CANDIDATES)[1 : 1 + count], 4, 1).double().eval()

    def run():
        xs = [x * k for k in range(count)]
        return (
            ops.mixed_sum(xs, weights), ops.mixed_norm_sum(xs, weights, norms), mixed(x, weights),
            *ops.multi_depthwise(x, kernels, dilations=ones), *ops.separable(x, kernels, matrices, dilations=ones),
        )  # fmt: skip

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(), run())

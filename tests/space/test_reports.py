"""What others have reported of layers like these, fused ones above all, tried on the mixed operation and compared with
its modules one by one. Each test says of which kind the reports are."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from asose_fast import ops
from asose_fast.space import CANDIDATES, MixedOp

NAMES = tuple(CANDIDATES)
SHAPE = (3, 4, 7, 6)
PLANS = pytest.mark.parametrize(("fused", "memory"), [(False, "save"), (True, "save"), (True, "recompute")])


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def pair(fused, memory="save", stride=1):
    """A mixed operation, and its candidates in a copy."""
    mixed = MixedOp.named(NAMES, 4, stride, fused=fused, memory=memory).double()
    return mixed, copy.deepcopy(mixed.ops)


def plain(candidates, x, weights):
    return sum(w * op(x) for w, op in zip(weights, candidates.values(), strict=True))


def new_weights():
    return random(10).softmax(0).requires_grad_()


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, check_stride=False)


def expanded(shape):
    return random(1, shape[1], 1, 1).expand(shape)


LAYOUTS = {
    "one number": lambda shape: random(1).expand(shape),
    "one a channel": expanded,
    "one a pixel": lambda shape: random(shape[0], 1, *shape[2:]).expand(shape),
    "permuted": lambda shape: random(*shape[::-1]).permute(3, 2, 1, 0),
    "sliced": lambda shape: random(*(2 * side for side in shape))[1::2, ::2, : shape[2], 1 : shape[3] + 1],
    "overlapping": lambda shape: random(sum(shape)).as_strided(shape, (1, 1, 1, 1)),
    "negated": lambda shape: torch.view_as_complex(random(*shape, 2)).conj().imag,
}


@PLANS
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_every_layout_are_read_as_they_are(fused, memory, stride, layout):
    """Of the kind: a backward kernel takes an expanded or transposed gradient for a contiguous one."""
    mixed, candidates = pair(fused, memory, stride)
    x, weights = random(*SHAPE).requires_grad_(), new_weights()
    y, expected = mixed(x, weights), plain(candidates, x, weights)
    grad = LAYOUTS[layout](y.shape)
    assert_same(
        torch.autograd.grad(y, [x, weights, *mixed.parameters()], grad),
        torch.autograd.grad(expected, [x, weights, *candidates.parameters()], grad),
    )


@PLANS
@pytest.mark.parametrize("layout", ["permuted", "sliced", "one a channel"])
def test_views_of_parameters_get_their_gradients(fused, memory, layout):
    """Of the kind: the gradient is wrong where the input, or a weight, is a permuted parameter."""
    mixed, _ = pair(fused, memory)
    for module in mixed.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(LAYOUTS["permuted"](module.weight.shape))
    candidates, weights = copy.deepcopy(mixed.ops), new_weights()
    found = []
    for run, own in ((mixed, mixed), (lambda x, w: plain(candidates, x, w), candidates)):
        torch.manual_seed(0)
        made = LAYOUTS[layout](SHAPE)
        leaf = nn.Parameter(made._base)
        y = run(leaf.as_strided(SHAPE, made.stride(), made.storage_offset()), weights)
        found.append((y, *torch.autograd.grad(y.square().sum(), [leaf, weights, *own.parameters()])))
    assert_same(*found)


def tie_candidates(ops):
    ops["sep_conv_3x3"][2].weight = ops["sep_conv_5x5"][2].weight = ops["dil_conv_3x3"][2].weight
    ops["dil_conv_3x3"][1].weight = ops["sep_conv_3x3"][1].weight


def tie_stages(ops):
    for name in ("sep_conv_3x3", "sep_conv_7x7"):
        ops[name][6] = ops[name][2]


def norm_of_two_chains(ops):
    ops["dil_conv_3x3"][3] = ops["sep_conv_3x3"][7]


def norm_of_two_stages(ops):
    ops["sep_conv_3x3"][7] = ops["sep_conv_3x3"][3]


def norm_of_pools_and_chain(ops):
    ops["max_pool_3x3"][1] = ops["avg_pool_3x3"][1] = ops["sep_conv_5x5"][7]


def norm_of_a_pool_and_another(ops):
    ops["conv_7x1_1x7"][3] = ops["avg_pool_3x3"][1]


@PLANS
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "tie",
    [
        tie_candidates, tie_stages, norm_of_two_chains, norm_of_two_stages, norm_of_pools_and_chain,
        norm_of_a_pool_and_another,
    ],
)  # fmt: skip
def test_what_is_shared_counts_for_each_use(fused, memory, momentum, tie):
    """Of the kind: tied weights and shared norms, whose running statistics depend on who is first."""
    mixed, _ = pair(fused, memory)
    tie(mixed.ops)
    for module in mixed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    candidates = copy.deepcopy(mixed.ops)
    for _ in range(2):
        x, weights = random(*SHAPE).requires_grad_(), new_weights()
        y, expected = mixed(x, weights), plain(candidates, x, weights)
        assert_same(
            torch.autograd.grad(y.square().sum(), [x, weights, *mixed.parameters()]),
            torch.autograd.grad(expected.square().sum(), [x, weights, *candidates.parameters()]),
        )
        assert_same(mixed.buffers(), candidates.buffers())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_norm_that_is_given_twice_is_updated_twice(momentum, compiled):
    """Of the same kind, for the operator."""
    norm = nn.BatchNorm2d(4, affine=False, momentum=momentum).double()
    twin, zs = copy.deepcopy(norm), [random(*SHAPE), 2 + 3 * random(*SHAPE)]

    def run():
        return ops.mixed_norm_sum(zs, torch.ones(2), [norm, norm])

    y = torch.compile(run, fullgraph=True, backend="eager")() if compiled else run()
    torch.testing.assert_close(y, twin(zs[0]) + twin(zs[1]))
    assert_same(norm.buffers(), twin.buffers())


@PLANS
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("index", [None, 6])
def test_activation_checkpointing_is_that_of_the_modules(fused, memory, reentrant, index):
    """Of the kind: gradients or statistics differ where a forward pass runs again in backward. PyTorch's norms are
    updated twice, and so are these."""
    mixed, candidates = pair(fused, memory)
    weights = new_weights() if index is None else nn.functional.one_hot(torch.tensor(index), 10).double()
    weights.requires_grad_()
    x, found = random(*SHAPE).requires_grad_(), []
    for run in (lambda x, w: mixed(x, w, index), lambda x, w: plain(candidates, x, w)):
        y = checkpoint(run, x, weights, use_reentrant=reentrant)
        y.square().sum().backward()
        found.append((y, x.grad, weights.grad))
        x.grad = weights.grad = None
    assert_same(*found)
    assert_same(mixed.buffers(), candidates.buffers())


@PLANS
def test_a_graph_is_differentiated_again_and_again(fused, memory):
    """Of the kind: the second of two second derivatives of one graph fails, or is another."""
    mixed, _ = pair(fused, memory)
    x, weights = random(*SHAPE).requires_grad_(), new_weights()
    leaves = [x, weights, *mixed.parameters()]
    y = mixed(x, weights)
    found = []
    for _ in range(2):
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        norm = sum(g.square().sum() for g in first)
        for _ in range(2):
            found.append([*first, *torch.autograd.grad(norm, leaves, retain_graph=True)])
    for other in found[1:]:
        assert_same(other, found[0])


@PLANS
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_what_changes_after_the_forward_pass_is_noticed_or_of_no_account(fused, memory, format):
    """Of the kind: a tensor that backward reads was changed in place, and gradients are silently wrong."""
    mixed, _ = pair(fused, memory)
    values = [random(*SHAPE).contiguous(memory_format=format), new_weights().detach(), random(1)[0], random(*SHAPE)]
    leaves = [value.requires_grad_() for value in values]

    def loss(x, weights, gain, shortcut):
        return mixed(x, weights, gain=gain, shortcut=shortcut).square().sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    for k in range(len(leaves)):
        given = [leaf * 1 for leaf in leaves]
        value = loss(*given)
        with torch.no_grad():
            given[k].mul_(3).add_(1)
        found, complaint = None, ""
        try:
            found = torch.autograd.grad(value, leaves)
        except RuntimeError as error:
            complaint = str(error)
        if found is None:
            assert "modified by an inplace operation" in complaint
        else:
            assert_same(found, expected)


@PLANS
def test_threads_that_share_a_module_get_their_own_results(fused, memory):
    """Of the kind: threads that run one module at the same time read each other's tensors."""
    mixed, _ = pair(fused, memory)
    mixed.eval()
    inputs = [(random(*SHAPE).requires_grad_(), new_weights()) for _ in range(4)]

    def gradients(x, weights):
        return torch.autograd.grad(mixed(x, weights).square().sum(), [x, weights, *mixed.parameters()])

    expected, found = [gradients(*given) for given in inputs], [[] for _ in inputs]

    def work(k):
        for _ in range(5):
            found[k].append(gradients(*inputs[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, right in zip(found, expected, strict=True):
        assert len(results) == 5
        for result in results:
            assert_same(result, right)


@PLANS
def test_states_of_several_modules_run_as_one(fused, memory):
    """Of the kind: replicas that are given their parameters from outside compute with those of the module."""
    several = [pair(fused, memory)[0].eval() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(several)
    x, weights = random(*SHAPE), new_weights().detach()

    def run(parameters, buffers):
        return torch.func.functional_call(several[0], (parameters, buffers), (x, weights))

    expected = [plain(mixed.ops, x, weights) for mixed in several]
    assert_same(torch.func.vmap(run)(parameters, buffers), expected)
    second = ({name: t[1] for name, t in state.items()} for state in (parameters, buffers))
    torch.testing.assert_close(run(*second), expected[1], rtol=1e-8, atol=1e-10)

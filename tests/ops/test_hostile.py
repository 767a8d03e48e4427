"""Whatever the operators are called with, kernels read and write the tensors alone: what does not fit is refused."""

import pytest
import torch
from torch.nn import functional as F

from asose_fast import _native, ops
from asose_fast.ops import registry
from asose_fast.ops.native import EXCHANGE
from asose_fast.space import MixedOp
from tests.helpers import python
from tests.ops.cases import table
from tests.ops.cases.separable_norm import stages
from tests.ops.raw_calls import OPERATORS, call, cut_short, freed, hostile, right_calls, tensors

REFUSALS = (TypeError, ValueError, NotImplementedError)
"""The last is the dispatcher's, where no tensor is left to dispatch on, or one of a layout that is not its business."""
FITTING = {
    ("arch_weights_fwd", "logits"),
    ("avg_pool_2x2_bwd", "grad"),
    ("avg_pool_2x2_fwd", "x"),
    ("batch_statistics", "zs"),
    ("dense_conv_fwd", "weight"),
    ("dense_conv_fwd", "x"),
    ("line_conv_fwd", "weight"),
    ("line_conv_fwd", "x"),
    ("linear_fwd", "x"),
    ("mixed_sum_bwd", "xs"),
    ("norm_pool_fwd", "z"),
    ("norm_tables", "zs"),
    ("norm_relu_mean_fwd", "x"),
    ("pointwise_fwd", "weights"),
    ("pointwise_fwd", "x"),
    ("pool_pair_bwd", "factors"),
    ("pool_pair_bwd", "terms"),
    ("pool_pair_fwd", "x"),
    ("separable_norm_bwd", "params"),  # they are empty, as are the next ones
    ("separable_norm_bwd", "ys"),
    ("separable_norm_fwd", "counts"),
    ("stage_bwd", "mean"),
    ("stage_bwd", "rstd"),
    ("stage_bwd", "tables"),
    ("stage_bwd", "ys"),
    ("stage_fwd", "mean"),
    ("stage_fwd", "rstd"),
    ("term_weights_bwd", "weights"),
    ("term_weights_fwd", "order"),
    ("term_weights_fwd", "weights"),
    ("total_norm", "tensors"),
}
"""What may be longer, or absent: it is taken, and then the results are right."""


def test_every_operator_is_here():
    done = python("-c", "import asose_fast.space, torch; print(*torch._C._dispatch_get_all_op_names())")
    names = [name.partition("::") for name in done.stdout.split()]
    assert right_calls().keys() == {name for library, _, name in names if library == "asose_fast"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:.* runs as plain PyTorch")
@pytest.mark.parametrize("name", right_calls())
def test_right_arguments_are_taken(name, dtype):
    call(name, right_calls(dtype)[name])


@pytest.mark.parametrize("name", right_calls())
def test_hostile_arguments_are_refused(name):
    arguments = right_calls()[name]
    for argument, changed in hostile(arguments):
        if refused(name, changed):
            continue
        assert (name, argument) in FITTING
        with ops.backend("reference"):
            expected = call(name, changed)
        for a, b in zip(tensors(call(name, changed)), tensors(expected), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", right_calls())
def test_fakes_refuse_the_same(name):
    arguments = right_calls()[name]
    for argument, changed in hostile(arguments):
        found = list(tensors(tuple(changed.values())))
        # Of memory and devices fakes know nothing.
        if not any(t.is_meta or is_short(t) for t in found):
            fake = {key: to_meta(value) for key, value in changed.items()}
            assert refused(name, fake) or (name, argument) in FITTING


def refused(name, arguments):
    try:
        call(name, arguments)
    except REFUSALS as error:
        return bool(str(error).strip())
    return False


def is_short(t):
    return t.layout is torch.strided and t.untyped_storage().nbytes() < t.numel() * t.element_size()


def to_meta(value):
    if isinstance(value, list):
        return [to_meta(v) for v in value]
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("mixed_sum_fwd", {"weights": table(2, dtype=torch.float32)}, r"weights must be torch.float32 \(3,\)"),
        ("mixed_sum_fwd", {"xs": [table(2, 2)] * 129, "weights": table(129)}, "1 to 128 values, got 129"),
        ("mixed_sum_bwd", {"need_x": [True] * 3}, "xs must hold 3 values, got 2"),
        ("mixed_sum_bwd", {"xs": [], "need_weights": True}, "xs must hold 2 values, got 0"),
        ("mixed_norm_sum_bwd", {"batch": [True]}, "batch must hold 2 values, got 1"),
        ("mixed_norm_sum_bwd", {"read": [False, True, True], "batch": [True, True]}, r"read\[0\] must be True"),
        ("mixed_norm_sum_fwd", {"pooled": 3}, "pooled must be 0 to 2, got 3"),
        ("mixed_norm_sum_bwd", {"pooled": -1}, "pooled must be 0 to 2, got -1"),
        ("mixed_norm_sum_bwd", {"pooled": 0}, r"need_x\[0\] must be False, as places are given"),
        ("mixed_norm_sum_bwd", {"need_sums": False}, "need_sums must be True where need_weights is"),
        ("multi_depthwise_fwd", {"dilations": [2, -1]}, r"dilations\[1\] must be positive, got -1"),
        ("multi_depthwise_fwd", {"params": table(37, 3, dtype=torch.float32)}, r"params must be .* \(38, 3\)"),
        ("multi_depthwise_bwd", {"affine": False, "params": table(34, 3, dtype=torch.float32)}, "need_affine must be"),
        ("separable_bwd", {"need_x": [True]}, "need_x must hold 2 values, got 1"),
        ("arch_weights_fwd", {"rng": None}, "noise and rng are both missing"),
        ("arch_weights_fwd", {"logits": table(2, 129, dtype=torch.float32)}, "K from 1 to 128"),
        ("line_conv_fwd", {"vertical": False}, r"weight must be .* \(4, 3, 1, 5\)"),
        ("norm_pool_fwd", {"running_mean": table(1, dtype=torch.float32).expand(3)}, "must not be expanded"),
        ("norm_tables", {"running_var": [table(1, dtype=torch.float32).expand(3)] * 2}, "must not be expanded"),
        ("pool_pair_bwd", {"x": table(2, 3, 6, 5, dtype=torch.float32).to("meta")}, "x is on meta"),
        ("pool_pair_fwd", {"x": freed(table(2, 3, 6, 5))}, "whose storage was resized"),
        ("pool_pair_fwd", {"x": cut_short(table(2, 3, 6, 5))}, "whose storage was resized"),
    ],
)
def test_the_error_says_what_is_wrong(name, changes, match):
    with pytest.raises(ValueError, match=match):
        call(name, right_calls()[name] | changes)


@pytest.mark.parametrize("layout", ["expanded", "permuted"])
def test_arch_weights_bwd_takes_any_strides(layout):
    grad = torch.randn(3, 4)
    soft = torch.randn(1, 4).softmax(1).expand(3, 4) if layout == "expanded" else torch.randn(4, 3).softmax(0).t()
    got = OPERATORS.arch_weights_bwd(grad, soft, 0.5)
    torch.testing.assert_close(got, OPERATORS.arch_weights_bwd(grad, soft.contiguous(), 0.5))


SAVING = {
    "multi_depthwise": lambda x: ops.multi_depthwise(x, [torch.ones(3, 1, 3, 3)], dilations=[1])[0],
    "pointwise": lambda x: ops.pointwise(x, [torch.ones(3, 3, 1, 1)]),
    "dense_conv": lambda x: ops.dense_conv(x, torch.ones(3, 3, 3, 3)),
    "norm_pool": lambda x: ops.norm_pool(x, torch.nn.BatchNorm2d(3)),
    "norm_lerp": lambda x: ops.norm_lerp(x, torch.nn.BatchNorm2d(3), x, torch.tensor(0.5)),
    "norm_relu_mean": lambda x: ops.norm_relu_mean(x, torch.nn.BatchNorm2d(3)),
    "separable_norm": lambda x: ops.separable_norm(x, stages(3, torch.nn.BatchNorm2d(3))),
    "conv_norm": lambda x: ops.conv_norm(x, torch.ones(3, 3, 3, 3), torch.nn.BatchNorm2d(3)),
    "linear": lambda x: ops.linear(x.flatten(1), torch.ones(4, 60)),
}


@pytest.mark.parametrize("name", SAVING)
def test_saved_tensors_that_a_hook_exchanges_are_refused(name):
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.flatten()[:1]):
        y = SAVING[name](x)
    with pytest.raises(ValueError, match=r"_(fwd|bwd): .* must (be \(N, (C, H, W|F)\)|have the shape)"):
        y.sum().backward()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("channels", "shortcut"), [(8, (2, 8, 6, 6)), (4, (1, 4, 1, 1)), (4, (2, 4, 6, 7))], ids=["x", "small", "wide"]
)
def test_a_mixed_operation_refuses_tensors_of_other_shapes(fused, channels, shortcut):
    mixed = MixedOp.named(("sep_conv_3x3", "avg_pool_3x3", "max_pool_3x3", "skip_connect"), 4, 1, fused=fused)
    gain, weights = torch.tensor(0.5), torch.full((4,), 0.25)
    with pytest.raises((ValueError, RuntimeError), match=r"must (be|have)|has shape|expected"):
        mixed(torch.randn(2, channels, 6, 6), weights, gain=gain, shortcut=torch.randn(shortcut))


def test_a_norm_of_too_few_statistics_is_refused():
    norm = torch.nn.BatchNorm2d(3).eval()
    norm.running_mean, norm.running_var = torch.zeros(1), torch.ones(1)
    with pytest.raises(ValueError, match=r"mixed_norm_sum: norms\[0\] is for 1 channels, zs have 3"):
        ops.mixed_norm_sum([torch.randn(2, 3, 4, 4)], torch.ones(1), [norm])


FREED = {
    "mixed_sum": lambda x: ops.mixed_sum([x, x], torch.ones(2)),
    "pool_pair": ops.pool_pair,
    "dense_conv": lambda x: ops.dense_conv(x, torch.ones(3, 3, 3, 3)),
    "line_conv": lambda x: ops.line_conv(x, torch.ones(3, 3, 1, 3)),
    "multi_depthwise": lambda x: ops.multi_depthwise(x, [torch.ones(3, 1, 3, 3)], dilations=[1]),
}


@pytest.mark.parametrize("name", FREED)
def test_kernels_are_given_no_address_of_freed_memory(name):
    x = freed(torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    with ops.backend("cpu"), pytest.raises(ValueError, match=r"shape \(2, 3, 4, 5\).*(no memory|was resized)"):
        FREED[name](x)


FAR = [(3, 2**62 + 10**6), (3, 2**62), (3, 2000), (5, 2**60), (1, 10**30), (7, 6), (33, 1), (3, 8), (3, 7), (5, 3)]
"""Kernel sizes and dilations whose taps lie beyond small images, or just not."""


@pytest.mark.parametrize("size", [(8, 8), (1, 20), (20, 1), (9, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_taps_beyond_the_image_meet_nothing(size, stride, backend):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(3, 1, k, k, dtype=torch.float64, requires_grad=True) for k, _ in FAR]
    matrices = [torch.randn(3, 3, 1, 1, dtype=torch.float64, requires_grad=True) for _ in FAR]
    near = [min(d, max(size)) for _, d in FAR]  # what PyTorch can count with, and as good
    exact_ys = [
        F.conv2d(x.relu(), w, None, stride, d * (k - 1) // 2, d, 3)
        for w, d, (k, _) in zip(weights, near, FAR, strict=True)
    ]
    exact_zs = [F.conv2d(y, matrix) for y, matrix in zip(exact_ys, matrices, strict=True)]
    dilations = [d for _, d in FAR]
    with ops.backend(backend):
        ys = ops.multi_depthwise(x, weights, dilations=dilations, stride=stride)
        zs = ops.separable(x, weights, matrices, dilations=dilations, stride=stride)
        for got, exact in ((ys, exact_ys), (zs, exact_zs)):
            leaves = [x, *weights, *(matrices if got is zs else [])]
            expected = torch.autograd.grad([y.square().sum() for y in exact], leaves, retain_graph=True)
            grads = torch.autograd.grad([y.square().sum() for y in got], leaves)
            for a, b in zip((*got, *grads), (*exact, *expected), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2**63), (5, 2**62), (3, 10**30)])
def test_a_padding_beyond_64_bits_is_refused(kernel, dilation):
    x, weight, matrix = torch.ones(1, 2, 4, 4), torch.ones(2, 1, kernel, kernel), torch.ones(2, 2, 1, 1)
    for function in (
        lambda: ops.multi_depthwise(x, [weight], dilations=[dilation]),
        lambda: ops.separable(x, [weight], [matrix], dilations=[dilation]),
    ):
        with pytest.raises(ValueError, match=rf"dilations\[0\] = {dilation} pads a kernel of {kernel} by 2\^63"):
            function()


def test_scratch_is_bounded_by_the_image():
    kernels = _native.kernels("cpu")
    for plan in (kernels.multi_depthwise_plan, kernels.separable_plan):
        *_, near = plan(0, [1, 4, 8, 8], [3], [7], 1, False, 1)
        *_, far = plan(0, [1, 4, 8, 8], [3], [2000], 1, False, 1)
        *_, overflowing = plan(0, [1, 4, 8, 8], [3], [2**62 + 10**6], 1, False, 1)
        assert far == overflowing <= near < 2**20
        *_, flat = plan(0, [1, 4, 1, 1000], [3], [999], 1, False, 1)
        assert flat < 4 * near * 1000 / 8


NORM = ([0] * 5, [0] * 3, False, 0.0, 0.0)
"""What says which norm an operator has: addresses, dtypes, whether it is of the batch, eps, momentum."""
NORMS = ([0] * 10, [0] * 6, [True] * 2, [1e-5] * 2, [0.1] * 2)
TAPS, MATRICES = [0, 0, 9, 3, 9, 3, 1] * 2, [0, 0, 2, 1, 2, 1, 0] * 2
"""Weights of two stages: dtype, address, columns, side, strides."""
DENSE_PLAN = ("ConvNormPlan", 0, [1, 2, 3, 3], [4, 2, 3, 3], 1, 1, False, False, False, 1)
LINEAR_PLAN = ("LinearPlan", 0, 1, 2, 3, 1)
STAGES_PLAN = ("SeparableNormPlan", 0, [1, 2, 3, 3], [3, 3], [1, 1], 1, 1)


@pytest.mark.skipif(bool(registry.why_not("mixed_sum", "cpu", "cpu")), reason="needs the CPU kernels")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mixed_sum_forward", (0, 129, [4], [0] * 130, [1] * 130, 0, 1)),
        ("mixed_sum_forward", (0, 2, [4], [0], [1], 0, 1)),
        ("mixed_sum_forward", (0, 2, [4], [0] * 3, [1], 0, 1)),
        ("mixed_sum_forward", (0, 2, [4], [0] * 3, [1] * 3, 0, 0)),
        ("mixed_sum_forward", (3, 1, [0], [0] * 2, [1] * 2, 0, 1)),
        ("mixed_sum_backward", (0, 2, [4], [0] * 3, [1] * 3, 0, 0, 0, 1)),
        ("multi_depthwise_plan", (0, [1, 2, 3], [3], [1], 1, False, 1)),
        ("multi_depthwise_plan", (0, [1, 2, 3, 3], [3, 3], [1], 1, False, 1)),
        ("multi_depthwise_plan", (0, [1, 2, 3, 3], [3], [-1], 1, False, 1)),
        ("multi_depthwise_plan", (0, [1, 2, 3, 3], [2**40 + 1], [1], 1, False, 1)),
        ("multi_depthwise_plan", (0, [1, 2, 3, 3], [3] * 33, [1] * 33, 1, False, 1)),
        ("multi_depthwise_forward", (0, [1, 2, 3, 3], [3], [1], 1, False, False, 1, [0], 0, 0, 1)),
        ("separable_plan", (0, [1, 2, 3, 3], [3, 3], [1, 1], 1, False, 3)),
        ("pool_pair_scratch", ([1, 2, 3], 1)),
        ("pool_pair_forward", (0, [1, 2, 3, 3], 0, 0, 0, 0, 1)),
        ("pool_pair_forward", (3, [0, 2, 3, 3], 1, 0, 0, 0, 1)),
        ("pool_pair_backward", (0, [1, 2, 3, 3], 1, 0, [0] * 4, 0, 0, 1, 0, 0, 0, 1)),
        ("pool_pair_backward", (0, [1, 2, 3, 3], 1, 0, [0] * 3, 0, 0, 0, 0, 0, 0, 1)),
        ("dense_conv_plan", (0, [1, 2, 3, 3], [4, 2, 3], 1, 1, False)),
        ("dense_conv_plan", (0, [1, 2, 3, 3], [4, 2, 3, 2], 1, 1, False)),
        ("dense_conv_plan", (0, [1, 2, 3, 3], [4, 3, 3, 3], 1, 1, False)),
        ("dense_conv_plan", (0, [1, 2, 3, 3], [4, 2, 3, 3], 1, 0, False)),
        ("ConvNormPlan", (0, [1, 2, 3, 3], [4, 2, 3], 1, 1, False, False, False, 1)),
        ("ConvNormPlan", (0, [1, 2, 3, 3], [4, 2, 3, 3], 1, 1, False, True, True, 1)),
        ("ConvNormPlan", (0, [1, 2, 3, 3], [4, 2, 3, 3], 1, 1, False, False, False, 0)),
        ("SeparableNormPlan", (0, [1, 2, 3], [3], [1], 1, 1)),
        ("SeparableNormPlan", (0, [0, 2, 3, 3], [3], [1], 1, 1)),
        ("SeparableNormPlan", (0, [1, 2, 3, 3], [], [], 1, 1)),
        ("SeparableNormPlan", (0, [1, 2, 3, 3], [3, 3], [1], 1, 1)),
        ("SeparableNormPlan", (0, [1, 2, 3, 3], [4], [1], 1, 1)),
        ("SeparableNormPlan", (0, [1, 2, 3, 3], [3], [1], 1, 0)),
        ("LinearPlan", (0, -1, 2, 3, 1)),
        ("LinearPlan", (0, 1, -1, 3, 1)),
        ("LinearPlan", (0, 1, 2, -1, 1)),
        ("LinearPlan", (0, 1, 2, 3, 0)),
        ("avg_pool_2x2_forward", (0, [1, 2, 3], 0, 0, 1)),
        ("norm_relu_mean_forward", (0, 0, 4, 3, 1, *NORM, [0] * 8, 1)),
        ("norm_relu_mean_forward", (0, 3, 4, 3, 1, *NORM, [0] * 8, 1)),
        ("norm_relu_mean_forward", (0, 2, 4, 3, 1, *NORM, [0] * 7, 1)),
        ("norm_relu_mean_backward", (0, 2, 4, 3, 1, [0] * 4, [0] * 2, False, [0] * 7, 1)),
        ("norm_relu_mean_backward", (0, 2, 4, 3, 1, [0] * 3, [0] * 2, False, [0] * 8, 1)),
        ("norm_pool_forward", (0, 4, 3, 1, 0, 0, [0] * 4, *NORM[1:], [0] * 7, 1)),
        ("norm_pool_forward", (0, 4, 3, 1, 0, 0, NORM[0], [0] * 2, *NORM[2:], [0] * 7, 1)),
        ("norm_pool_forward", (0, 4, 3, 1, 0, 0, [0, 0, 0, 1, 0], [0, 3, 0], *NORM[2:], [0] * 7, 1)),
        ("norm_pool_backward", (0, 4, 3, 1, 0, 0, [0] * 4, [0], False, [0] * 8, 1)),
        ("norm_lerp_forward", (0, 4, 3, 1, *NORM, [0] * 8, 1)),
        ("norm_lerp_backward", (0, 4, 3, 1, [0] * 4, [0] * 2, False, [0] * 11, 1)),
        ("line_conv_plan", (0, [1, 2, 3, 3], [4, 2], 1, True, False)),
        ("line_conv_plan", (0, [1, 2, 3, 3], [4, 3, 3], 1, True, False)),
        ("lane_groups", (4, 0, 1)),
        ("batch_statistics", (0, 2, 4, 1, 1, [0], 0, 0, 0, 1)),
        ("mixed_norm_sum_forward", (0, 1, 4, 1, 1, [0] * 2, 0, 2, 0, 0, 0, 0, 0, 1)),
        ("mixed_norm_sum_backward", (0, 1, 4, 1, 1, [0] * 3, 0, 0, 0, 0, 0, [1, 1], 0, 0, 0, 0, 1)),
        ("term_weights_forward", ([0, 0], 2, [0, 0], [0, 2], -1, 0, 0, 1)),
        ("term_weights_forward", ([0, 0], 2, [0], [0, 1], -1, 0, 0, 1)),
        ("term_weights_backward", ([0, 0], 2, [0, 0], [0, 1], 2, 0, 0, 0, 0, 1)),
        ("pointwise_backward", (0, [1, 2, 3, 3], [4, 4], 2, 0, [0, 0], 0, 0, 0, [0], 1)),
        ("add_scaled", (0, -1, 0, 0, 0, 0, 1)),
        ("arch_weights_forward", (0, 1, 129, 0, 0, 0, 1.0, True, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 1)),
        ("arch_weights_forward", (2, 0, 4, 0, 0, 0, 1.0, True, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 1)),
        ("cross_entropy_forward", (0, -1, 3, 0, 0.0, 0, 0, 0, 0, 1)),
        ("cross_entropy_forward", (0, 1, 0, 0, 0.0, 0, 0, 0, 0, 1)),
        ("cross_entropy_backward", (2, 0, 3, 0, 0.0, 0, 0, 0, 1)),
        ("sgd", (EXCHANGE, [1], [], [], 0, 0, 5.0, 0.1, 0.0, 0.0, False, 1)),
        ("sgd", (EXCHANGE, [1], [1], [1, 1], 0, 0, 5.0, 0.1, 0.9, 0.0, False, 1)),
        ("sgd", (EXCHANGE, [], [], [], 2, 0, 5.0, 0.1, 0.9, 0.0, False, 1)),
        ("total_norm", (EXCHANGE, [], 2, 0, 1)),
        ("pool_empty", (0, [2, 3], [1])),
        ("pool_empty", (7, [2, 3], [3, 1])),
        ("PooledTensors", ([(0, [2, 3], [1])],)),
        ("PooledTensors", ([(0, [2], [1]), (7, [2, 3], [3, 1])],)),
    ],
)
def test_bindings_refuse_numbers_and_lists_that_do_not_fit(name, arguments):
    refuses(_native.kernels("cpu"), name, arguments)


@pytest.mark.skipif(bool(registry.why_not("sgd", "cpu", "cpu")), reason="needs the CPU kernels")
@pytest.mark.parametrize(
    "other",
    [
        1,
        torch.ones(2, 3, 4, 5).half(),
        torch.ones(2, 3, 4, 5).long(),
        torch.ones(2, 3, 4, 5).to_sparse(),
        torch.ones(2, 3, 4, 5, device="meta"),
        torch.ones(2, 3, 4, 10)[..., ::2],
        torch.ones(2, 3, 4, 1).expand(-1, -1, -1, 5),
        torch.ones(5, 4, 3, 2).permute(3, 2, 1, 0),
    ],
    ids=str,
)
def test_kernels_that_look_at_tensors_themselves_touch_no_others(other):
    kernels, good, norm = _native.kernels("cpu"), torch.ones(2, 3, 4, 5), torch.zeros(())
    assert not kernels.total_norm(EXCHANGE, [good, other], 0, norm.data_ptr(), 1)
    for place in range(3):
        lists = [[good, other if place == k else good] for k in range(3)]
        assert not kernels.sgd(EXCHANGE, *lists, 0, 0, 1.0, 0.1, 0.9, 0.0, False, 1)
    assert not norm
    assert good.eq(1).all()


@pytest.mark.skipif(bool(registry.why_not("sgd", "cpu", "cpu")), reason="needs the CPU kernels")
@pytest.mark.parametrize(
    "other",
    [
        torch.ones(2, 3, 4, 5).double(),
        torch.ones(2, 3, 5, 4),
        torch.ones(6, 4, 5),
        torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ],
    ids=lambda t: f"{t.dtype} {t.stride()}",
)
def test_kernels_step_through_tensors_that_are_alike(other):
    kernels, good = _native.kernels("cpu"), torch.ones(2, 3, 4, 5)
    for place in range(3):
        lists = [[other if place == k else good] for k in range(3)]
        assert not kernels.sgd(EXCHANGE, *lists, 0, 0, 1.0, 0.1, 0.9, 0.0, False, 1)
    assert good.eq(1).all()
    assert kernels.sgd(EXCHANGE, [other], [other.clone()], [], 0, 0, 1.0, 0.25, 0.0, 0.0, False, 1)
    assert other.eq(0.75).all()


@pytest.mark.skipif(bool(registry.why_not("mixed_sum", "cpu", "cpu")), reason="needs the CPU kernels")
@pytest.mark.parametrize(
    ("plan", "method", "arguments"),
    [
        (DENSE_PLAN, "forward", ([0] * 3, *NORM, [0] * 8)),
        (DENSE_PLAN, "forward", ([0] * 4, *NORM, [0] * 7)),
        (DENSE_PLAN, "backward", ([0] * 4, [0] * 4, [0] * 3, [0] * 2, True, [0] * 12)),
        (DENSE_PLAN, "backward", ([0] * 4, [0] * 4, [0] * 4, [0] * 2, True, [0] * 11)),
        (LINEAR_PLAN, "forward", ([0] * 4,)),
        (LINEAR_PLAN, "backward", ([0] * 5,)),
        (STAGES_PLAN, "forward", (TAPS[:-1], MATRICES, *NORMS, [0] * 8)),
        (STAGES_PLAN, "forward", (MATRICES, MATRICES, *NORMS, [0] * 8)),
        (STAGES_PLAN, "forward", (TAPS, TAPS, *NORMS, [0] * 8)),
        (STAGES_PLAN, "forward", (TAPS, MATRICES, *NORMS, [0] * 7)),
        (STAGES_PLAN, "forward", (TAPS, MATRICES, [0] * 9, *NORMS[1:], [0] * 8)),
        (STAGES_PLAN, "forward", (TAPS, MATRICES, *NORMS[:-1], [0.1], [0] * 8)),
        (STAGES_PLAN, "backward", (TAPS, MATRICES, TAPS, MATRICES, [0] * 8, [0] * 4, [True] * 2, False, [0] * 10)),
        (STAGES_PLAN, "backward", (TAPS, MATRICES, TAPS, MATRICES, [0] * 8, [0] * 4, [True], False, [0] * 11)),
        (STAGES_PLAN, "backward", (TAPS, MATRICES, TAPS, TAPS, [0] * 8, [0] * 4, [True] * 2, False, [0] * 11)),
    ],
)
def test_plans_refuse_numbers_and_lists_that_do_not_fit(plan, method, arguments):
    name, *values = plan
    refuses(getattr(_native.kernels("cpu"), name)(*values), method, arguments)


def refuses(owner, name, arguments):
    """The call is refused, and of a kernel the launch too."""
    with pytest.raises(ValueError, match=(refusal := r"must be|must hold|element type")):
        getattr(owner, name)(*arguments)
    if make := getattr(owner, f"{name}_launch", None):
        with pytest.raises(ValueError, match=refusal):
            _native.kernels("cpu").Program([make([], *arguments)], 0).run([])


def test_memory_of_no_size_that_there_is_cannot_be_had():
    with pytest.raises(MemoryError):
        _native.kernels("cpu").pool_empty(0, [2**40, 2**40], [2**40, 1])
    with pytest.raises(MemoryError):
        _native.kernels("cpu").PooledTensors([(0, [2**60], [1])] * 4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_pools_that_nobody_wants_are_not_written(backend):
    if registry.why_not("pool_pair", backend, "cpu"):
        pytest.skip("no kernels")
    with ops.backend(backend):
        for x in (torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.ones(2, 20, 40, 30)):
            assert [t.numel() for t in torch.ops.asose_fast.pool_pair_fwd(x, 2, False, False, False, False)] == [0] * 6

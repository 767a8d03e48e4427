"""What candidates do not take is refused under the fused plan as under the plain one, and what they take is not."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asose_fast.space import CANDIDATES, MixedOp
from tests.space.test_stacked import wide_stage

NAMES = (*CANDIDATES, "nor_conv_3x3")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PAIR = ("sep_conv_3x3", "dil_conv_3x3")


class Wrong:
    """Changes of a mixed operation of 4 channels and of its arguments; each leaves alone what it does not find."""

    @staticmethod
    def nothing(mixed, arguments, draw):
        pass

    @staticmethod
    def channels(mixed, arguments, draw):
        x = arguments["x"]
        arguments["x"] = torch.randn(len(x), draw(st.sampled_from([1, 3, 8, 16])), *x.shape[2:]).to(x)

    @staticmethod
    def dtype_of_x(mixed, arguments, draw):
        arguments["x"] = arguments["x"].to(draw(st.sampled_from([*DTYPES, torch.int64])))

    @staticmethod
    def empty(mixed, arguments, draw):
        x = arguments["x"]
        shape = list(x.shape)
        shape[draw(st.sampled_from([0, 0, 1, 2, -1]))] = 0
        arguments["x"] = x.new_empty(shape)

    @staticmethod
    def one_value(mixed, arguments, draw):
        arguments["x"] = arguments["x"][:1, ..., :1, :1]

    @staticmethod
    def dimensions(mixed, arguments, draw):
        arguments["x"] = arguments["x"].sum(0)

    @staticmethod
    def dtype_of_all(mixed, arguments, draw):
        mixed.to(draw(st.sampled_from(DTYPES)))
        if draw(st.booleans()):
            dtype = next((p.dtype for p in mixed.parameters()), torch.float32)
            arguments["x"] = arguments["x"].to(dtype)

    @staticmethod
    def dtype_of_one(mixed, arguments, draw):
        modules = [m for m in mixed.modules() if not list(m.children())]
        draw(st.sampled_from(modules)).to(draw(st.sampled_from(DTYPES)))

    @staticmethod
    def dtype_of_a_buffer(mixed, arguments, draw):
        norms = [m for m in mixed.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
        for norm in norms[:1]:
            norm.running_mean = norm.running_mean.to(draw(st.sampled_from(DTYPES)))

    @staticmethod
    def norm(mixed, arguments, draw):
        parents = [m for m in mixed.modules() if isinstance(m, nn.Sequential) and isinstance(m[-1], nn.BatchNorm2d)]
        if parents:
            options = {name: draw(st.booleans()) for name in ("affine", "track_running_stats")}
            draw(st.sampled_from(parents))[-1] = nn.BatchNorm2d(draw(st.sampled_from([2, 4, 5])), **options)

    @staticmethod
    def convolution(mixed, arguments, draw):
        chains = [m for m in mixed.modules() if isinstance(m, nn.Sequential) and len(m) > 3]
        if chains:
            chain = draw(st.sampled_from(chains))
            i = draw(st.sampled_from([i for i, m in enumerate(chain) if isinstance(m, nn.Conv2d)]))
            conv, width = chain[i], draw(st.sampled_from([4, 8]))
            out = draw(st.sampled_from([4, 8]))
            groups = width if conv.groups > 1 else 1
            settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
            chain[i] = nn.Conv2d(width, max(out, groups), *settings, groups, bias=draw(st.booleans()))

    @staticmethod
    def weight(mixed, arguments, draw):
        convs = [m for m in mixed.modules() if isinstance(m, nn.Conv2d)]
        if convs:
            conv = draw(st.sampled_from(convs))
            conv.weight = nn.Parameter(torch.randn(8, *conv.weight.shape[1:]))

    @staticmethod
    def halves(mixed, arguments, draw):
        if mixed.stride == 2 and "skip_connect" in mixed.ops:
            mixed.ops["skip_connect"].even = nn.Conv2d(draw(st.sampled_from([4, 8])), 2, 1, bias=draw(st.booleans()))

    @staticmethod
    def device(mixed, arguments, draw):
        draw(st.sampled_from(list(mixed.modules()))).to("meta")

    @staticmethod
    def alpha(mixed, arguments, draw):
        if (weights := arguments["weights"]) is not None:
            change = draw(st.sampled_from(["more", "fewer", "int64", "float64", "bfloat16", "meta"]))
            arguments["weights"] = {
                "more": lambda: torch.cat([weights, weights[:1]]),
                "fewer": lambda: weights[1:],
                "meta": lambda: weights.to("meta"),
            }.get(change, lambda: weights.to(getattr(torch, change)))()

    @staticmethod
    def index(mixed, arguments, draw):
        arguments["index"] = draw(st.sampled_from([-1, 0, len(mixed.ops), len(mixed.ops) - 1]))

    @staticmethod
    def kept(mixed, arguments, draw):
        arguments["kept"] = draw(st.sampled_from([(), (0,), (-1,), (len(mixed.ops),), tuple(range(len(mixed.ops)))]))

    @staticmethod
    def blend(mixed, arguments, draw):
        shape = draw(st.sampled_from([(), (1,), (1, 1), (2,)]))
        arguments["gain"] = torch.full(shape, 0.5)
        x = arguments["x"]
        size = [-(-s // mixed.stride) for s in x.shape[-2:]]
        shape = draw(st.sampled_from([(len(x), 4, *size), (1, 4, *size), (len(x), 4, 2, 2), (len(x), 8, *size)]))
        arguments["shortcut"] = torch.randn(shape).to(draw(st.sampled_from([torch.float32, torch.float64])))

    @staticmethod
    def uncounted(mixed, arguments, draw):
        for norm in [m for m in mixed.modules() if isinstance(m, nn.BatchNorm2d)][:1]:
            norm.num_batches_tracked = None

    @staticmethod
    def half_tracked(mixed, arguments, draw):
        for norm in [m for m in mixed.modules() if isinstance(m, nn.BatchNorm2d)][:1]:
            setattr(norm, draw(st.sampled_from(["running_mean", "running_var"])), None)

    @staticmethod
    def other_output(mixed, arguments, draw):
        kind = draw(st.sampled_from(["Zero", "double", "channels", "normed double", "normed channels"]))
        mixed.ops["other"] = {
            "Zero": lambda: type(MixedOp.named(("none",), 4, 1).ops["none"])(3 - mixed.stride),
            "double": lambda: Apply(lambda x: x[:, :, :: mixed.stride, :: mixed.stride].double()),
            "channels": lambda: nn.Conv2d(4, 6, 1, mixed.stride),
            "normed double": lambda: nn.Sequential(
                nn.AvgPool2d(mixed.stride, ceil_mode=True), Apply(lambda x: x.double()), nn.BatchNorm2d(4)
            ).double(),
            "normed channels": lambda: nn.Sequential(nn.Conv2d(4, 6, 1, mixed.stride), nn.BatchNorm2d(6)),
        }[kind]()
        if arguments["weights"] is not None:
            arguments["weights"] = torch.rand(len(mixed.ops))


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


WRONG = [name for name in vars(Wrong) if not name.startswith("_")]


def outcome(mixed, arguments):
    """Output and gradients, or the error; and the buffers after it."""
    leaves = {n: t.clone() for n, t in arguments.items() if isinstance(t, torch.Tensor)}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())
    try:
        y = mixed(**{**arguments, **leaves})
        leaves |= dict(mixed.named_parameters())
        wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
        if y.requires_grad and y.device.type == "cpu":
            grads = torch.autograd.grad(y.double().square().sum(), wanted, allow_unused=True)
        else:
            grads = []
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return error
    found = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=False)]
    return y.detach(), found, list(mixed.buffers())


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_fused_and_plain_give_the_same_or_both_refuse(data):
    torch.manual_seed(data.draw(st.integers(0, 99)))
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    stride = data.draw(st.sampled_from([1, 2]))
    plain = MixedOp.named(names, 4, stride, fused=False).train(data.draw(st.booleans()))
    if data.draw(st.booleans()):
        plain.ops["wide"] = wide_stage(4, stride)
    plain.double()
    sampled = data.draw(st.booleans())
    arguments = {
        "x": torch.randn(3, 4, 6, 5).double(),
        "weights": None if sampled else torch.rand(len(plain.ops)),
        "index": data.draw(st.integers(0, len(plain.ops) - 1)) if sampled else None,
    }
    for wrong in data.draw(st.lists(st.sampled_from(WRONG), min_size=1, max_size=2)):
        getattr(Wrong, wrong)(plain, arguments, data.draw)
    fused = copy.deepcopy(plain)
    fused.fused = True
    autocast = data.draw(st.integers(0, 4)) == 0
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, found = outcome(plain, arguments), outcome(fused, arguments)
    if isinstance(expected, Exception) or isinstance(found, Exception):
        assert isinstance(expected, Exception), f"only the fused plan refuses: {found!r}"
        assert isinstance(found, Exception), f"only the plain plan refuses: {expected!r}"
        return
    assert found[0].shape == expected[0].shape
    assert found[0].dtype == expected[0].dtype or autocast
    tensors = [[output, *gradients, *buffers] for output, gradients, buffers in (found, expected)]
    output = expected[0]
    low = autocast or any(t.dtype in DTYPES[:2] for t in tensors[1])
    for got, value in zip(*tensors, strict=True):
        assert (got.device, got.dtype) == (value.device, value.dtype) or autocast
        if value.device.type == "cpu" and value.numel() and value.isfinite().all() and not low:
            exact = value.dtype == output.dtype == torch.float64
            assert (got - value).abs().max() <= (1e-8 if exact else 1e-2) * value.abs().max().clamp_min(1)


def refused(mixed, x, weights, error, message, **options):
    """Under every plan, and before anything has changed."""
    for fused in (False, True):
        mixed.fused = fused
        before = copy.deepcopy(mixed.state_dict())
        with pytest.raises(error, match=message):
            mixed(x, weights, **options)
        assert all(torch.equal(t, before[name]) for name, t in mixed.state_dict().items() if not t.is_meta)


X = torch.randn(2, 8, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.randn(2, 16, 8, 8)}, RuntimeError,
         r"expected input\[2, 16, 8, 8\] to have 8 channels, but got 16 channels instead"),
        ({"x": X.double()}, RuntimeError, "Double"),
        ({"weights": torch.ones(3)}, ValueError, r"weights must be \(K,\) = \(2,\), one a candidate, got \(3,\)"),
        ({"weights": torch.ones(2, dtype=torch.int64)}, TypeError, "must be float32 or float64, got torch.int64"),
        ({"weights": [0.5, 0.5]}, TypeError, "weights must be a tensor, got list"),
        ({"weights": torch.ones(2, device="meta")}, ValueError, "weights are on meta, x is on cpu"),
        ({"index": 2}, ValueError, r"index must be one of \(0, 1\), got 2"),
        ({"weights": None, "index": -1}, ValueError, r"index must be one of \(0, 1\), got -1"),
        ({"index": 0.0}, TypeError, "index must be an integer, got float 0.0"),
        ({"weights": None, "index": "1"}, TypeError, "index must be an integer, got str '1'"),
        ({"kept": (0, 1.0)}, TypeError, "kept must be integers, got float 1.0"),
        ({"kept": (0,), "index": 1}, ValueError, r"index must be one of \(0,\), got 1"),
        ({"kept": (0, 2)}, ValueError, r"kept must be of candidates 0 to 1, one at least, got \(0, 2\)"),
    ],
)  # fmt: skip
def test_one_error_says_what_is_wrong(arguments, error, message):
    mixed = MixedOp.named(PAIR, 8, 1)
    refused(mixed, **{"x": X, "weights": torch.ones(2) / 2} | arguments, error=error, message=message)


def test_a_shortcut_of_another_shape_is_refused():
    for weights, index in ((torch.ones(2), None), (None, 0)):
        for fused in (False, True):
            mixed = MixedOp.named(PAIR, 8, 2, fused=fused)
            with pytest.raises(ValueError, match=r"the candidates' outputs, \(2, 8, 3, 3\), got \(2, 8, 6, 6\)"):
                mixed(X, weights, index, gain=torch.tensor(0.5))


def replace_norm(mixed):
    mixed.ops["dil_conv_3x3"][3] = nn.BatchNorm2d(4)


def replace_pointwise(mixed):
    mixed.ops["dil_conv_3x3"][2] = nn.Conv2d(16, 16, 1, bias=False)


def halve(mixed):
    mixed.ops["dil_conv_3x3"].half()


def widen_a_norm(mixed):
    mixed.ops["dil_conv_3x3"][3].double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_norm, "running_mean should contain 8 elements not 4"),
        (replace_pointwise, r"expected input\[2, 8, 6, 6\] to have 16 channels, but got 8 channels instead"),
        (halve, "should be the same"),
        (widen_a_norm, "expect parameter to have scalar type of Float"),
    ],
)
def test_modules_that_do_not_fit_are_refused_in_the_words_of_pytorch(change, message):
    for fused in (False, True):
        mixed = MixedOp.named(PAIR, 8, 1, fused=fused)
        change(mixed)
        for weights, index in ((torch.ones(2), None), (None, 1)):
            with pytest.raises(RuntimeError, match=message):
                mixed(X, weights, index)


def test_an_empty_batch_is_taken_in_training_too():
    for fused in (False, True):
        mixed = MixedOp.named(tuple(CANDIDATES), 8, 2, fused=fused)
        x = torch.randn(0, 8, 6, 5, requires_grad=True)
        y = mixed(x, torch.ones(10))
        y.sum().backward()
        assert (y.shape, x.grad.shape) == ((0, 8, 3, 3), x.shape)
        norm = mixed.ops["sep_conv_3x3"][3]
        assert int(norm.num_batches_tracked) == 1
        assert not norm.running_mean.any()


def test_more_separable_candidates_than_the_kernels_take():
    candidates = {f"dil_{k}": MixedOp.named(("dil_conv_3x3",), 2, 1).ops["dil_conv_3x3"] for k in range(34)}
    plain = MixedOp(candidates, fused=False).double()
    fused = copy.deepcopy(plain)
    fused.fused = True
    x, weights = torch.randn(2, 2, 4, 4).double(), torch.rand(34)
    torch.testing.assert_close(fused(x, weights), plain(x, weights))


def test_running_statistics_move_without_a_count_of_batches():
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        mixed = MixedOp.named(PAIR, 8, 1, fused=fused)
        norm = mixed.ops["sep_conv_3x3"][3]
        norm.num_batches_tracked = None
        mixed(X, torch.ones(2))
        found.append(norm.running_mean)
    assert found[0].any()
    torch.testing.assert_close(*found)


class Meddler(nn.Module):
    """Changes another candidate each time it runs: between the look at its modules and the kernels."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        self.change()
        return x.relu()


OTHER_DATA = {
    "depthwise": {"1.weight": (8, 1, 3, 3)},
    "pointwise": {"2.weight": (4, 8, 1, 1)},
    "norm": {"3.running_mean": (6,), "3.running_var": (6,)},
}
"""Shapes of what is put into a dil_conv_5x5 behind autograd's back."""


@pytest.mark.parametrize("part", OTHER_DATA)
def test_a_candidate_that_changes_another_is_refused(part):
    def change():
        tensors = dict([*chain.named_parameters(), *chain.named_buffers()])
        for name, shape in OTHER_DATA[part].items():
            tensors[name].data = torch.zeros(shape)

    chain = MixedOp.named(("dil_conv_5x5",), 8, 1).ops["dil_conv_5x5"]
    mixed = MixedOp({"dil": chain, "meddler": Meddler(change)}, fused=True).eval()
    with pytest.raises(ValueError, match="a candidate's modules changed while another candidate ran"):
        mixed(X, torch.ones(2))


def test_convolutions_of_settings_that_no_kernel_takes_are_left_to_pytorch():
    strided = [nn.ReLU(), nn.Conv2d(8, 8, 3, 3, 1, groups=8, bias=False), nn.Conv2d(8, 8, 1, bias=False)]
    mixed = MixedOp({"conv": nn.Sequential(*strided, nn.BatchNorm2d(8))}, stride=3, fused=True)
    assert mixed(X, torch.ones(1)).shape[2] == -(-X.shape[2] // 3)
    mixed = MixedOp.named(("dil_conv_3x3",), 8, 1, fused=True)
    conv = mixed.ops["dil_conv_3x3"][1]
    conv.dilation, conv.padding, conv.zeros = (0, 0), (0, 0), (0, 0)
    with pytest.raises(RuntimeError, match="non-positive dilation"):
        mixed(X, torch.ones(1))

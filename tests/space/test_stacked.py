"""The stacked-branch plan against the candidates run one by one: values, gradients, running statistics."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.space import CANDIDATES, MixedOp
from asose_fast.space import stacked as stacked_plan
from asose_fast.space.stacked import Branches
from benchmarks.memory import saved_bytes

NAMES = tuple(CANDIDATES)
DARTS = NAMES[:6] + NAMES[7:9]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Scale(nn.Module):
    """A user's candidate."""

    def __init__(self, stride):
        super().__init__()
        self.stride, self.factor = stride, nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.factor * x[:, :, :: self.stride, :: self.stride].tanh()


def wide_stage(channels, stride):
    """A chain of three stages, the first of an uncommon kernel, with affine norms."""

    def stage(kernel, stride):
        depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        return [
            nn.ReLU(),
            depthwise,
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, momentum=None),
        ]

    return nn.Sequential(*stage(9, stride), *stage(3, 1), *stage(5, 1))


def pair(names, channels, stride, dtype, *, users=False, train=True):
    """The same mixed operation with the plain and with the stacked plan, every buffer and parameter random."""
    plain = MixedOp.named(names, channels, stride, fused=False)
    if users:
        plain.ops["scale"], plain.ops["wide"] = Scale(stride), wide_stage(channels, stride)
    for name, tensor in plain.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    plain.to(dtype).train(train)
    stacked = copy.deepcopy(plain)
    stacked.fused = True
    return plain, stacked


def results(mixed, x, weights, index=None, gain=None):
    """Value, all gradients and all buffers. Gradients that are 0 may be absent."""
    leaves = {"x": x.clone().requires_grad_()}
    if weights is not None:
        leaves["weights"] = weights.clone().requires_grad_()
    shortcut = leaves["x"]
    if gain is not None:
        leaves["gain"] = torch.tensor(gain, dtype=x.dtype, requires_grad=True)
        if mixed.stride == 2:
            shortcut = F.avg_pool2d(shortcut, 2, ceil_mode=True, count_include_pad=False)
    y = mixed(leaves["x"], leaves.get("weights"), index, gain=leaves.get("gain"), shortcut=shortcut)
    leaves |= dict(mixed.named_parameters())
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    grads = torch.autograd.grad(y, list(leaves.values()), grad, allow_unused=True)
    zero = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = {f"d{name}": zero[name] if g is None else g for name, g in zip(leaves, grads, strict=True)}
    return {"y": y.detach(), **found, **dict(mixed.named_buffers())}


def assert_close(got, expected, tolerance, usual=None):
    """Within `tolerance` of the largest value, and four times the error of `usual`; nothing below 1e-3 counts."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # A single value is a sum over everything, whose terms cancel.
        scale = value.abs().max().clamp_min(1e-3 if value.numel() > 1 else 1.0)
        error = (got[name].double() - value).abs().max() / scale
        allowed = 0 if usual is None else 4 * (usual[name].double() - value).abs().max() / scale
        assert error <= tolerance + allowed, f"{name}: {error}"


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), train=st.booleans(), users=st.booleans())
def test_plans_agree(data, dtype, train, users):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    stride, gain = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([None, 0.3]))
    size = st.integers(3, 12)
    shape = (
        data.draw(st.integers(2, 3)),
        data.draw(st.sampled_from([2, 3, 5, 16, 17])),
        data.draw(size),
        data.draw(size),
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    plain, stacked = pair(names, shape[1], stride, dtype, users=users, train=train)
    k = len(plain.ops)
    index = data.draw(st.one_of(st.none(), st.integers(0, k - 1)))
    weights = torch.rand(k, dtype=dtype) if index is None else torch.eye(k, dtype=dtype)[index]
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
    # In float32 the plain plan has errors of its own: sums of few values cancel.
    exact = results(copy.deepcopy(plain).double(), x.double(), weights.double(), index, gain)
    usual = results(plain, x, weights, index, gain)
    assert_close(results(stacked, x, weights, index, gain), exact, TOLERANCE[dtype], usual)


@pytest.mark.parametrize("names", [NAMES, DARTS, DARTS[::-1]], ids=["ten", "eight", "reversed"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("index", [None, 1, 5])
@pytest.mark.parametrize(("stride", "gain"), [(1, None), (1, 0.3), (2, 0.3)])
def test_plans_of_usual_sets_agree(names, train, index, stride, gain):
    plain, stacked = pair(names, 5, stride, torch.float64, train=train)
    weights = (torch.rand(len(names)) if index is None else torch.eye(len(names))[index]).double()
    x = torch.randn(3, 5, 9, 8, dtype=torch.float64)
    assert_close(results(stacked, x, weights, index, gain), results(plain, x, weights, index, gain), 1e-11)


@pytest.mark.skipif(ops.registry.why_not("line_conv", "cpu", "cpu") is not None, reason="no kernels")
@pytest.mark.parametrize("index", [None, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dense", [False, True])
def test_convolutions_along_one_axis_run_on_line_conv(monkeypatch, dense, stride, index):
    """Where its kernels are fit, here because they must, and `dense_conv` does not take them; alone behind a ReLU, a
    norm is no convolution."""
    monkeypatch.setattr(stacked_plan, "has_dense_kernels", lambda *_: dense)
    plain, _ = pair(("skip_connect", "conv_7x1_1x7"), 5, stride, torch.float64)
    down = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    plain.ops["relu"] = nn.Sequential(nn.ReLU(), down, nn.BatchNorm2d(5)).double()
    stacked, called = copy.deepcopy(plain), []
    stacked.fused = True
    run_it = stacked_plan.line_conv
    monkeypatch.setattr(stacked_plan, "line_conv", lambda *a, **k: called.append(k["relu"]) or run_it(*a, **k))
    weights = (torch.rand(3) if index is None else torch.eye(3)[index]).double()
    x = torch.randn(3, 5, 8, 10, dtype=torch.float64)
    with ops.backend("cpu"):
        got = results(stacked, x, weights, index)
    assert called == ([] if dense else [True, False])
    assert_close(got, results(plain, x, weights, index), 1e-11)


@pytest.mark.parametrize("index", [None, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_dense_convolutions_without_kernels_run_within_the_layer(monkeypatch, stride, index):
    """One that follows no ReLU runs apart."""
    plain, _ = pair(("max_pool_3x3", "conv_7x1_1x7", "avg_pool_3x3"), 5, stride, torch.float64)
    plain.ops["linear"] = nn.Sequential(nn.Conv2d(5, 5, 3, stride, 1, bias=False), nn.BatchNorm2d(5)).double()
    stacked, dense = copy.deepcopy(plain), []
    stacked.fused = True
    run_it = stacked_plan.mixed_layer

    def recorded(*arguments, **options):
        dense.extend(options["dense"])
        return run_it(*arguments, **options)

    monkeypatch.setattr(stacked_plan, "mixed_layer", recorded)
    weights = (torch.rand(4) if index is None else torch.eye(4)[index]).double()
    x = torch.randn(3, 5, 8, 10, dtype=torch.float64)
    with ops.backend("reference"):
        got = results(stacked, x, weights, index)
    assert dense == [[conv for conv in stacked.ops["conv_7x1_1x7"] if isinstance(conv, nn.Conv2d)]]
    assert_close(got, results(plain, x, weights, index), 1e-11)


@pytest.mark.parametrize("index", [None, 4, 7])
@pytest.mark.parametrize("train", [True, False])
def test_recomputing_gives_the_same_and_keeps_less(index, train):
    _, saving = pair(NAMES, 4, 1, torch.float32, train=train)
    recomputing = copy.deepcopy(saving)
    recomputing.memory = "recompute"
    weights = torch.rand(10) if index is None else torch.eye(10)[index]
    x = torch.randn(3, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    kept = [saved_bytes(lambda m=m: m(x, weights.clone().requires_grad_(), index)) for m in (saving, recomputing)]
    outputs = 5 + 2 + {None: 3, 4: 1, 7: 0}[index]  # last ones, pools, and inner ones that hand gradients on
    assert round((kept[0] - kept[1]) / x.nbytes) == outputs  # but for the small weights
    saving.load_state_dict(recomputing.state_dict())
    got, expected = results(recomputing, x, weights, index), results(saving, x, weights, index)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("gain", [None, 0.3])
@pytest.mark.parametrize("index", range(1, len(NAMES)))
@pytest.mark.parametrize("stride", [1, 2])
def test_plans_of_a_sampled_path_agree(stride, index, gain, train):
    plain, stacked = pair(NAMES, 5, stride, torch.float64, train=train)
    x = torch.randn(3, 5, 9, 8, dtype=torch.float64)
    expected, got = (results(mixed, x, None, index, gain) for mixed in (plain, stacked))
    assert_close(got, expected, 1e-11)


def test_several_candidates_are_stacked_and_lone_ones_that_are_separable():
    mixed, x = MixedOp.named(NAMES, 16, 1), torch.empty(64, 16, 32, 32)
    lone = {name: Branches.of({0: mixed.ops[name]}, 1) for name in NAMES}
    separable = [name for name in NAMES if name.startswith(("sep_", "dil_"))]
    for t, blended, others in [
        (x, True, []),
        (x[:1], False, []),
        (x, False, ["avg_pool_3x3", "max_pool_3x3", "conv_7x1_1x7"]),
    ]:
        stacked = {name for name, branches in lone.items() if branches.worthwhile(t, blended)}
        assert stacked == {*separable, *others}
    several = {k: mixed.ops[name] for k, name in enumerate(("avg_pool_3x3", "sep_conv_3x3"))}
    assert Branches.of(several, 1).worthwhile(x, True)


def test_state_moves_between_the_plans():
    plain, stacked = pair(NAMES, 4, 1, torch.float64)
    assert [(n, t.shape) for n, t in plain.state_dict().items()] == [
        (n, t.shape) for n, t in stacked.state_dict().items()
    ]
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.rand(10, dtype=torch.float64)
    for _ in range(3):
        plain(x, weights)
    stacked.load_state_dict(plain.state_dict())
    for mixed in (plain, stacked):
        mixed(x, weights)
        mixed.eval()
    torch.testing.assert_close(stacked(x, weights), plain(x, weights))
    assert {int(t) for n, t in stacked.named_buffers() if "num_batches" in n} == {4}


def test_a_weight_of_zero_keeps_what_is_not_finite_out_of_the_output():
    _, stacked = pair(NAMES, 4, 1, torch.float32)
    weights = torch.rand(10)
    weights[6] = 0
    x = torch.randn(2, 4, 6, 6)
    expected = stacked(x, weights)
    nn.init.constant_(stacked.ops["sep_conv_7x7"][6].weight, torch.nan)
    torch.testing.assert_close(stacked(x, weights), expected)


def test_an_earlier_graph_survives_a_later_forward_pass():
    """Running statistics change in place, as those of nn.BatchNorm2d, unseen by autograd."""
    plain, stacked = pair(NAMES, 4, 1, torch.float32)
    x, weights = torch.randn(2, 4, 6, 6), torch.rand(10)
    for first, second in ((plain, stacked), (stacked, plain)):
        second.load_state_dict(first.state_dict())
        y = first(x, weights, 4) + stacked(x, weights)
        y.sum().backward()


def test_autocast():
    plain, stacked = pair(NAMES, 16, 1, torch.float32)
    x, weights = torch.randn(2, 16, 8, 8), torch.rand(10)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = results(stacked, x, weights, gain=0.5), results(plain, x, weights, gain=0.5)
    assert got["y"].dtype == expected["y"].dtype == torch.float32
    torch.testing.assert_close(got["y"], expected["y"], rtol=0.05, atol=0.1)


def sorted_names(mixed):
    names = list(mixed.ops)
    found = Branches.of(dict(enumerate(mixed.ops.values())), mixed.stride)
    return [[names[k] for k in group] for group in (found.separable, found.pools, found.normed, found.others)]


@pytest.mark.parametrize("stride", [1, 2])
def test_candidates_are_told_by_their_modules(stride):
    mixed, _ = pair(NAMES[::-1], 4, stride, torch.float32, users=True)
    separable, pools, normed, others = sorted_names(mixed)
    assert separable == [*(n for n in NAMES[::-1] if n[:3] in ("sep", "dil")), "wide"]
    assert pools == ["avg_pool_3x3", "max_pool_3x3"]
    assert normed == ["conv_7x1_1x7"] + ["skip_connect"] * (stride == 2)
    assert others == ["skip_connect"] * (stride == 1) + ["scale"]


def change_stride(op):
    op[1].stride = (2, 2)


def change_padding(op):
    op[1].padding_mode = "reflect"


def give_a_bias(op):
    op[2].bias = nn.Parameter(torch.ones(4))


def make_inplace(op):
    op[0].inplace = True


def put_a_subclass(op):
    class Other(nn.ReLU):
        def forward(self, x):
            return x.tanh()

    op[4] = Other()


@pytest.mark.parametrize("change", [change_stride, change_padding, give_a_bias, make_inplace, put_a_subclass])
def test_a_separable_convolution_that_differs_is_run_as_it_is(change):
    mixed, _ = pair(("sep_conv_3x3", "sep_conv_5x5"), 4, 1, torch.float32)
    change(mixed.ops["sep_conv_5x5"])
    separable, _, normed, _ = sorted_names(mixed)
    assert (separable, normed) == (["sep_conv_3x3"], ["sep_conv_5x5"])


def test_pools_that_differ_are_run_as_they_are():
    mixed, _ = pair(NAMES[1:3], 4, 1, torch.float32)
    mixed.ops["avg_pool_3x3"][0].count_include_pad = True
    assert sorted_names(mixed) == [[], [], ["avg_pool_3x3", "max_pool_3x3"], []]


@pytest.mark.parametrize("name", ["sep_conv_3x3", "max_pool_3x3", "conv_7x1_1x7"])
@pytest.mark.parametrize("child", [None, 0, -1])
def test_hooks_run(name, child):
    mixed, _ = pair(NAMES, 4, 1, torch.float32)
    op, calls = mixed.ops[name], []
    (op if child is None else op[child]).register_forward_hook(lambda *_: calls.append(name))
    mixed(torch.randn(2, 4, 6, 6), torch.rand(10))
    assert calls == [name]


@pytest.mark.parametrize(
    ("fused", "names", "expected"),
    [("auto", NAMES, True), ("auto", NAMES[2:4], False), (True, NAMES[2:4], True), (False, NAMES, False)],
)
def test_the_plan_is_chosen_by_rule(monkeypatch, fused, names, expected):
    used = []
    mix = Branches.mix
    monkeypatch.setattr(Branches, "mix", lambda *args: used.append(True) or mix(*args))
    MixedOp.named(names, 4, 1, fused=fused)(torch.randn(2, 4, 6, 6), torch.rand(len(names)))
    can = fused is True or ops.registry.why_not("multi_depthwise", "cpu", "cpu") is None
    assert bool(used) == (expected and can)


def test_without_kernels_the_plan_is_plain(monkeypatch):
    monkeypatch.setattr(ops.registry, "why_not", lambda *_: "no kernels here")
    monkeypatch.setattr(Branches, "mix", None)
    MixedOp.named(NAMES, 4, 1)(torch.randn(2, 4, 6, 6), torch.rand(10))


@pytest.mark.parametrize("first", [nn.Conv2d(3, 3, 1), nn.Linear(4, 4)])
def test_a_candidate_that_is_kept_twice_runs_once(first):
    op, x = MixedOp({"first": first, "skip": nn.Identity()}), torch.randn(2, 3, 4, 4)
    weights, gain = torch.tensor([0.3, 0.7]), torch.tensor(0.5)
    assert torch.equal(op(x, weights, kept=(0, 0), gain=gain), op(x, weights, kept=(0,), gain=gain))

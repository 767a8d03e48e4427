"""mixed_layer: against plain modules in float64, with norms of every kind; weights of 0; what is refused."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.mixed_layer import Stage, mixed_layer
from tests.ops.depthwise_cases import LAYOUTS, lay_out

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("separable", b, "cpu")]
KINDS = {
    "plain": {"affine": False},
    "affine": {},
    "average": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "eval": {"training": False},
    "untracked eval": {"affine": False, "track_running_stats": False, "training": False},
}
CONVOLUTIONS = [(3, 1), (5, 2), (7, 1), (1, 1), (3, 2)]


def new_norm(channels, affine=True, training=True, **options):
    """A BatchNorm2d with random parameters and running statistics."""
    norm = nn.BatchNorm2d(channels, affine=affine, **options).train(training)
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            tensor.uniform_(0.5, 1.5)
    return norm


class Layer(nn.Module):
    """The modules of a mixed layer with chains of these lengths, and so many dense branches, the second of more
    channels within; its norms are of `kinds`, in turn."""

    def __init__(
        self,
        channels=3,
        stride=1,
        lengths=(2, 1),
        pools=True,
        others=1,
        kinds=("affine",),
        convolutions=CONVOLUTIONS,
        dense=0,
    ):
        super().__init__()
        self.stride = stride
        convolution, kind = itertools.cycle(convolutions), itertools.cycle(kinds)

        def norm():
            return new_norm(channels, **KINDS[next(kind)])

        def stage(stride):
            kernel, dilation = next(convolution)
            pad = dilation * (kernel - 1) // 2
            depthwise = nn.Conv2d(channels, channels, kernel, stride, pad, dilation, channels, bias=False)
            return nn.ModuleList([depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm()])

        self.chains = nn.ModuleList(
            nn.ModuleList(stage(1 if depth else stride) for depth in range(length)) for length in lengths
        )
        self.pools = nn.ModuleList(norm() for _ in range(2 * pools))
        self.dense = nn.ModuleList(
            nn.ModuleList([
                nn.Conv2d(channels, channels + k, (1, 3), (1, stride), (0, 1), bias=False),
                nn.Conv2d(channels + k, channels, (5, 1), (stride, 1), (2, 0), bias=False),
            ])
            for k in range(dense)
        )  # fmt: skip
        self.norms = nn.ModuleList(norm() for _ in range(dense + others))
        self.double()

    def values(self, shape, plain=1, shortcut=False):
        """Random tensors for the layer, and a gradient of its output."""
        out = (*shape[:2], *((size - 1) // self.stride + 1 for size in shape[2:]))
        values = {
            "x": torch.randn(shape),
            "weights": torch.randn(len(self.chains) + len(self.pools) + len(self.norms)),
            "plain_weights": torch.randn(plain + shortcut),
            **{f"zs.{k}": torch.randn(out) for k in range(len(self.norms) - len(self.dense))},
            **{f"plain.{k}": torch.randn(out) for k in range(plain)},
        }
        return {name: t.double() for name, t in values.items()}, torch.randn(out).double()

    def forward(self, x, weights, **options):
        chains = [[Stage(*stage) for stage in chain] for chain in self.chains]
        options |= {"pools": list(self.pools), "norms": list(self.norms), "dense": list(map(list, self.dense))}
        return mixed_layer(x, weights, chains, stride=self.stride, **options)

    def plain(self, x, weights, *, zs, plain, plain_weights, tracked=None, recompute=False):
        """What `forward` computes, module by module."""
        outputs = []
        for chain in self.chains:
            z = x
            for depthwise, pointwise, norm in chain:
                z = norm(pointwise(depthwise(z.relu())))
            outputs.append(z)
        if self.pools:
            average, maximum = self.pools
            outputs.append(average(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)))
            outputs.append(maximum(F.max_pool2d(x, 3, self.stride, 1)))
        for (first, second), norm in zip(self.dense, self.norms, strict=False):
            outputs.append(norm(second(first(x.relu()))))
        outputs = [o if use else o.detach() for o, use in zip(outputs, tracked or [True] * len(outputs), strict=True)]
        outputs += [norm(z) for norm, z in zip(self.norms[len(self.dense) :], zs, strict=True)]
        terms = zip([*weights, *plain_weights], [*outputs, *plain], strict=True)
        return sum(w * term for w, term in terms)


def results(layer, values, grad, *, modules=False, need=None, shortcut=False, before_backward=None, **options):
    """Value, gradients, by default all of them, and buffers. Gradients that are 0 may be absent.

    With `modules` they are those of the plain modules; with `shortcut`, x is the first of the plain terms.
    """
    leaves = {name: t.detach() for name, t in values.items()} | dict(layer.named_parameters())
    for name, leaf in leaves.items():
        leaf.requires_grad_(need is None or name in need)
    zs, plain = ([t for name, t in leaves.items() if name.startswith(group)] for group in ("zs.", "plain."))
    options |= {"zs": zs, "plain": [leaves["x"]] * shortcut + plain, "plain_weights": leaves["plain_weights"]}
    y = (layer.plain if modules else layer)(leaves["x"], leaves["weights"], **options)
    found = {"y": y.detach()}
    if before_backward:
        before_backward()
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    if y.requires_grad:
        grads = torch.autograd.grad(y, list(wanted.values()), grad, allow_unused=True)
        for (name, leaf), g in zip(wanted.items(), grads, strict=True):
            found[f"d{name}"] = torch.zeros_like(leaf) if g is None else g
    return found | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_close(got, expected, tolerance=1e-9):
    for name, value in expected.items():
        if value.numel():
            error = (got[name] - value).abs().max()
            assert error <= tolerance * max(value.abs().max(), 1), f"{name}: off by {error}"


def assert_equal(got, expected):
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_modules(backend, data):
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    stride = data.draw(st.sampled_from([1, 2]))
    lengths = data.draw(st.lists(st.integers(1, 3), max_size=4))
    pools, others, plain = data.draw(st.booleans()), data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    dense = data.draw(st.integers(0, 2))
    assume(lengths or pools or dense or others)
    shortcut = stride == 1 and data.draw(st.booleans())
    kinds = data.draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=7))
    size = st.integers(1, 9)
    shape = (data.draw(st.integers(2, 3)), data.draw(st.sampled_from([1, 2, 5, 17])), data.draw(size), data.draw(size))
    layer = Layer(shape[1], stride, sorted(lengths, reverse=True), pools, others, kinds, dense=dense)
    values, grad = layer.values(shape, plain, shortcut)
    for k in range(len(values["weights"])):
        if data.draw(st.integers(0, 3)) == 0:
            values["weights"][k] = 0
    hands_on = len(lengths) + 2 * pools + dense
    tracked = data.draw(st.none() | st.lists(st.booleans(), min_size=hands_on, max_size=hands_on))
    names = sorted([*values, *(name for name, _ in layer.named_parameters())])
    need = data.draw(st.none() | st.sets(st.sampled_from(names)))
    options = {"need": need, "shortcut": shortcut, "tracked": tracked}
    twin = copy.deepcopy(layer)
    expected = results(twin, values, grad, modules=True, **options)
    values = {name: lay_out(t, data.draw(LAYOUTS)) if t.dim() == 4 else t for name, t in values.items()}
    grad = lay_out(grad, data.draw(LAYOUTS))
    with ops.backend(backend):
        got = results(layer, values, grad, **options, recompute=data.draw(st.booleans()))
    assert got["y"].is_contiguous(memory_format=torch.channels_last)
    assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["affine", "eval"])
def test_any_gradient_can_be_had_alone(backend, kind):
    layer = Layer(3, 1, (3, 2, 1), kinds=(kind,), dense=1)
    values, grad = layer.values((2, 3, 5, 4))
    names = [*values, *(name for name, _ in layer.named_parameters())]
    with ops.backend(backend):
        everything = results(layer, values, grad)
        for name in names:
            alone = results(layer, values, grad, need={name})
            assert_close({"": alone[f"d{name}"]}, {"": everything[f"d{name}"]})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["affine", "eval"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", ["chains.0.0.0.weight", "chains.0.0.2.weight", "chains.0.1.1.weight", "zs.0"])
def test_a_weight_of_zero_keeps_out_what_is_not_finite(backend, recompute, kind, value, broken):
    layer = Layer(3, 1, (2, 2, 1), kinds=(kind,))
    values, grad = layer.values((2, 3, 5, 4))
    branch = -1 if broken == "zs.0" else 0
    values["weights"][branch] = 0
    with ops.backend(backend):
        expected = results(layer, values, grad)
        tensors = values | dict(layer.named_parameters())
        tensors[broken].detach().fill_(value)
        got = results(layer, values, grad, recompute=recompute)
    assert got["dweights"][branch].isnan()
    for found in (got, expected):
        found["dweights"][branch] = 0
    assert_close(*({n: t for n, t in found.items() if n[0] in "yd"} for found in (got, expected)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_mode_of_the_forward_pass_counts(backend, recompute, training):
    layer = Layer(3, 1, (3, 1)).train(training)
    values, grad = layer.values((2, 3, 5, 4))
    twin = copy.deepcopy(layer)
    with ops.backend(backend):
        expected = results(twin, values, grad)
        switch = {"before_backward": lambda: layer.train(not training)}
        assert_equal(results(layer, values, grad, recompute=recompute, **switch), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_recomputing_gives_the_same_bits(backend, dtype, stride):
    layer = Layer(17, stride, (3, 2, 1), kinds=KINDS, dense=1).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    values, grad = layer.values((2, 17, 9, 8))
    values = {name: t.to(dtype) for name, t in values.items()}
    twin = copy.deepcopy(layer)
    with ops.backend(backend):
        expected = results(twin, values, grad.to(dtype))
        assert_equal(results(layer, values, grad.to(dtype), recompute=True), expected)
    leaves = values | dict(layer.named_parameters())
    assert expected["y"].dtype == dtype
    assert all(expected[f"d{name}"].dtype == leaf.dtype for name, leaf in leaves.items())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kinds", [("affine",), ("eval", "affine")], ids=str)
def test_gradcheck(backend, stride, kinds):
    layer = Layer(2, stride, (2, 1), kinds=kinds, dense=1)
    values, _ = layer.values((2, 2, 4, 4))
    leaves = [*(t.requires_grad_() for t in values.values()), *layer.parameters()]

    def function(x, weights, plain_weights, z, plain, *_):
        return layer(x, weights, zs=[z], plain=[plain], plain_weights=plain_weights)

    with ops.backend(backend):
        assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(), (2, 1)], ids=str)
def test_a_large_mean_costs_no_more_accuracy_than_in_the_modules(backend, lengths):
    layer = Layer(5, 1, lengths, others=0, kinds=("plain",), convolutions=[(1, 1)])
    values, grad = layer.values((4, 5, 16, 16))
    values["x"] += 1e3
    exact = results(copy.deepcopy(layer), values, grad, modules=True)
    values, grad = {name: t.float() for name, t in values.items()}, grad.float()
    usual = results(copy.deepcopy(layer).float(), values, grad, modules=True)
    with ops.backend(backend):
        got = results(layer.float(), values, grad)
    for name, value in exact.items():
        error, allowed = ((found[name].double() - value).abs().max() / value.abs().max() for found in (got, usual))
        assert error <= 4 * allowed + 1e-5, f"{name}: off by {error}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_plain_terms_are_1_by_default(backend):
    layer = Layer(others=0)
    values, _ = layer.values((2, 3, 4, 4))
    with ops.backend(backend):
        y = layer(values["x"], values["weights"], plain=[values["plain.0"]])
        assert_close({"y": y}, {"y": layer(values["x"], values["weights"]) + values["plain.0"]})


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch_in_eval_mode(backend):
    layer = Layer(kinds=("eval",), dense=1)
    values, grad = layer.values((0, 3, 4, 5))
    with ops.backend(backend):
        found = results(layer, values, grad)
    assert found["y"].shape == found["dx"].shape == (0, 3, 4, 5)
    assert not any(t.any() for name, t in found.items() if name.startswith("d"))


def test_short_chains_before_long_ones_are_refused():
    layer = Layer(lengths=(1, 2))
    values, _ = layer.values((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"the longest chains must come first, got lengths \[1, 2\]"):
        layer(values["x"], values["weights"])


META = {"device": "meta"}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.ones(2, 5, 4, 4)}, ValueError,
         r"chains\[0\]\[0\].depthwise.weight must be \(5, 1, 3, 3\) for x, got \(3, 1, 3, 3\)"),
        ({"x": torch.ones(2, 3, 4, 4, dtype=torch.int64)}, TypeError, "x must be float16, .*, got torch.int64"),
        ({"x": torch.ones(3, 4, 4)}, ValueError, r"x must be \(N, C, H, W\) with C, H, W > 0, got \(3, 4, 4\)"),
        ({"weights": torch.ones(4)}, ValueError, r"weights must be \(6,\), one a term, got \(4,\)"),
        ({"weights": torch.ones(6, dtype=torch.int64)}, TypeError, "weights must be floating, got torch.int64"),
        ({"weights": torch.ones(6, **META)}, ValueError, "weights are on meta, x on cpu"),
        ({"plain_weights": torch.ones(2)}, ValueError, r"plain_weights must be \(1,\), one a term, got \(2,\)"),
        ({"zs": []}, ValueError, "norms must hold one module a dense branch and z, got 2 for 1 and 0"),
        ({"zs": [torch.ones(2, 3, 4, 5)]}, ValueError, r"zs\[0\] must have the shape of the output, \(2, 3, 4, 4\)"),
        ({"plain": [torch.ones(1, 3, 4, 4)]}, ValueError, r"plain\[0\] must have the shape .*, got \(1, 3, 4, 4\)"),
        ({"plain": [torch.ones(2, 3, 4, 4).double()]}, TypeError, r"plain\[0\] must be of the dtype of x, "),
        ({"plain": [torch.ones(2, 3, 4, 4, **META)]}, ValueError, r"plain\[0\] is on meta, x on cpu"),
        ({"tracked": [True]}, ValueError, "tracked must be 5, one a chain, pool or dense branch, got 1"),
        ({"chains.1.0.1": nn.Conv2d(3, 3, 1, **META)}, ValueError, r"\[1\]\[0\].pointwise.weight is on meta, x on cpu"),
        ({"chains.0.0.2": nn.BatchNorm2d(4)}, ValueError, r"chains\[0\]\[0\].norm is for 4 channels, x has 3"),
        ({"pools.1": nn.BatchNorm2d(3, **META)}, ValueError, r"pools\[1\] has its weight on meta, must have it on cpu"),
        ({"norms.0": nn.BatchNorm2d(2)}, ValueError, r"norms\[0\] is for 2 channels, x has 3"),
        ({"norms.1": nn.BatchNorm2d(2)}, ValueError, r"norms\[1\] is for 2 channels, its z has 3"),
        ({"dense.0.0": nn.Conv2d(2, 3, 3)}, ValueError, r"dense\[0\]\[0\]: weight must be .* with C_in = 3"),
        ({"dense.0.1": nn.Conv2d(3, 3, 3, 2)}, ValueError, r"dense\[0\] gives the shape \(2, 3, 2, 2\), must give"),
        ({"norms.0": nn.BatchNorm1d(3)}, TypeError, r"norms\[0\] must be an nn.BatchNorm2d, got BatchNorm1d"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changed, error, message):
    layer = Layer(dense=1).float()
    values, _ = layer.values((2, 3, 4, 4))
    values = {name: t.float() for name, t in values.items()}
    arguments = {"zs": [values.pop("zs.0")], "plain": [values.pop("plain.0")], **values}
    for name, value in changed.items():
        if isinstance(value, nn.Module):
            layer.set_submodule(name, value)
        else:
            arguments[name] = value
    with pytest.raises(error, match=message):
        layer(**arguments)


@pytest.mark.parametrize(("stride", "size"), [(1, 1), (2, 2)])
def test_too_few_values_are_refused_before_statistics_change(stride, size):
    layer = Layer(3, stride, (3, 1), kinds=("eval",))
    values, _ = layer.values((1, 3, size, size))
    before = copy.deepcopy(layer.state_dict())

    def run():
        layer(values["x"], values["weights"], zs=[values["zs.0"]])

    run()
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    for training in [*([norm] for norm in norms), norms]:
        layer.eval()
        for norm in training:
            norm.train()
        with pytest.raises(ValueError, match="expected more than 1 value per channel"):
            run()
        assert_equal(layer.state_dict(), before)

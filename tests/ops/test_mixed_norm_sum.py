"""mixed_norm_sum: every backend of this machine against batch norms and a sum in float64; statistics; refusals."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.reference.mixed_norm_sum import reference
from tests.helpers import with_thread_counts

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("mixed_norm_sum", b, "cpu")]
FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 2e-2}
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced"]


def lay_out(x, layout):
    """A tensor of x's values in another layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), math.nan, dtype=x.dtype)
        view = wide[..., 1::2]
        view.copy_(x)
        return view
    return x.contiguous()


def new_norm(channels, *, affine=False, training=True, dtype=torch.float32, **options):
    """A BatchNorm2d with random parameters and running statistics."""
    norm = nn.BatchNorm2d(channels, affine=affine, dtype=dtype, **options).train(training)
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            tensor.uniform_(0.5, 2.0)
    return norm


@st.composite
def cases(draw, dtype):
    sizes = st.sampled_from([1, 2, 3, 5, 7, 16, 17])
    shape = draw(st.tuples(sizes, sizes, sizes, sizes).filter(lambda s: s[0] * s[2] * s[3] > 1))
    if draw(st.booleans()):
        large = [(2, 3, 40, 41), (1, 64, 9, 9), (3, 1, 70, 70), (2, 1037, 2, 2), (9, 513, 1, 3), (33, 48, 7, 7)]
        shape = draw(st.sampled_from([*large, (2, 5, 30, 19)]))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    one_layout = draw(st.sampled_from(["contiguous", "channels_last", None]))

    def tensor():
        x = torch.randn(shape, generator=seed) * 3 + torch.randn(shape[1], 1, 1, generator=seed)
        return lay_out(x.to(dtype), one_layout or draw(st.sampled_from(LAYOUTS)))

    branches, plain = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    xs = [tensor() for _ in range(branches + plain)]
    weights = torch.randn(branches + plain, generator=seed, dtype=torch.float64)
    for k in range(len(weights)):
        if draw(st.booleans()):
            weights[k] = draw(st.sampled_from([0.0, 1.0, 1e-20, 1e5]))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    norms = [
        new_norm(shape[1], affine=draw(st.booleans()), training=draw(st.booleans()), dtype=wide, eps=0.1)
        for _ in range(branches)
    ]
    for norm in norms:
        for parameter in norm.parameters():
            parameter.requires_grad_(draw(st.booleans()))
    need = [draw(st.booleans()) for _ in range(branches + plain + 2)]
    return xs, weights.to(wide), norms, tensor(), need


def close(got, expected, dtype, magnitude):
    """Within the dtype's rounding of `magnitude`, the size of what was added up."""
    assert got.isfinite().all()
    assert ((got.double() - expected).abs() <= TOLERANCE[dtype] * magnitude + 1e-30).all()


def gradients(mix, xs, weights, norms, grad, need):
    """y and, by name, the gradients that are needed."""
    branches = len(norms)
    leaves = {f"x{k}": x.detach().requires_grad_(n) for k, (x, n) in enumerate(zip(xs, need[2:], strict=True))}
    tensors = list(leaves.values())
    leaves["w"] = weights[:branches].clone().requires_grad_(need[0])
    leaves["v"] = weights[branches:].clone().requires_grad_(need[1])
    y = mix(tensors[:branches], leaves["w"], norms, plain=tensors[branches:], plain_weights=leaves["v"])
    leaves |= {f"{name}{k}": p for k, norm in enumerate(norms) for name, p in norm.named_parameters()}
    if y.requires_grad:
        y.backward(grad)
    return y.detach(), {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, data):
    xs, weights, norms, grad, need = data.draw(cases(dtype))
    exact_norms = [copy.deepcopy(norm).double() for norm in norms]
    # In one layout: torch 2.13's batch norm mixes up channels backward where z and its gradient differ in theirs.
    exact_xs = [x.double().contiguous() for x in xs]
    exact_grad = grad.double().contiguous()
    expected_y, expected = gradients(reference, exact_xs, weights.double(), exact_norms, exact_grad, need)
    with ops.backend(backend):
        y, got = gradients(ops.mixed_norm_sum, xs, weights, norms, grad, need)

    assert y.dtype == dtype
    scale = weights.double().abs().sum() * 20
    close(y, expected_y, dtype, scale)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    assert got.keys() == expected.keys()
    for name, leaf in got.items():
        assert (leaf is None) == (expected[name] is None), name
        if leaf is None:
            continue
        branch = name[-1]
        if name.startswith("x"):
            close(leaf, expected[name], dtype, weights[int(branch)].double().abs() * grad.double().abs().max() * 20)
        else:
            size = 20 * grad.double().abs().sum()
            close(leaf, expected[name], wide, size * (weights[int(branch)].double().abs() if branch.isdigit() else 1))
    for norm, exact in zip(norms, exact_norms, strict=True):
        for a, b in zip(norm.buffers(), exact.buffers(), strict=True):
            close(a, b, wide, b.abs() + 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_zero_weight_keeps_a_branch_out_but_has_its_gradient(backend, training):
    zs = [torch.randn(3, 5, 4, 4).requires_grad_() for _ in range(2)]
    norms = [new_norm(5, affine=True, training=training) for _ in zs]
    weights = torch.tensor([0.0, 2.0], requires_grad=True)
    grad = torch.randn(3, 5, 4, 4)
    with ops.backend(backend):
        ops.mixed_norm_sum(zs, weights, norms).backward(grad)
        assert torch.equal(zs[0].grad, torch.zeros_like(grad))
        torch.testing.assert_close(weights.grad[0], (grad * copy.deepcopy(norms[0])(zs[0])).sum())
        broken = [torch.full_like(grad, math.inf).requires_grad_(), zs[1]]
        ops_y = ops.mixed_norm_sum(broken, weights.detach(), norms)
        ops_y.backward(grad)
    assert ops_y.isfinite().all()
    assert torch.equal(broken[0].grad, torch.zeros_like(grad))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_running_statistics_are_those_of_batchnorm(backend, momentum):
    ours = [nn.BatchNorm2d(6, momentum=momentum, affine=False) for _ in range(3)]
    ours.append(nn.BatchNorm2d(6, affine=False, track_running_stats=False))
    theirs = copy.deepcopy(ours)
    for step in range(5):
        if step == 3:
            ours[1].eval()
            theirs[1].eval()
        zs = [torch.randn(4, 6, 5, 5) * (k + 1) + step for k in range(4)]
        with ops.backend(backend):
            y = ops.mixed_norm_sum(zs, torch.ones(4), ours)
        torch.testing.assert_close(y, sum(norm(z) for norm, z in zip(theirs, zs, strict=True)))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(dict(a.named_buffers()), dict(b.named_buffers()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_large_mean_costs_no_accuracy(backend, format):
    z = (torch.randn(8, 6, 24, 24) + 1e4).contiguous(memory_format=format)
    exact = z.double().requires_grad_()
    leaf = z.clone().requires_grad_()
    weights = torch.ones(1, requires_grad=True)
    grad = torch.randn_like(z)
    with ops.backend(backend):
        mean, var = batch_statistics([z])
        y = ops.mixed_norm_sum([leaf], weights, [nn.BatchNorm2d(6)])
        y.backward(grad)
    torch.testing.assert_close(mean[0], exact.detach().mean((0, 2, 3)), rtol=1e-9, atol=0)
    torch.testing.assert_close(var[0], exact.detach().var((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    expected = nn.functional.batch_norm(exact, None, None, training=True)
    expected.backward(grad.double())
    torch.testing.assert_close(y.double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(weights.grad[0].double(), (grad.double() * expected).sum(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", FORMATS)
def test_outliers_cost_little_accuracy_of_the_statistics(backend, format):
    z = torch.randn(8, 6, 24, 24).contiguous(memory_format=format)
    z[0, :, 0, 0] = -1e4
    z[5, :, 3, 7] = 1e5
    with ops.backend(backend):
        mean, var = batch_statistics([z])
    torch.testing.assert_close(mean[0], z.double().mean((0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(var[0], z.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_format_follows_the_first_input(backend):
    z = torch.randn(2, 3, 4, 5)
    last = z.contiguous(memory_format=torch.channels_last).requires_grad_()
    norms = [new_norm(3), new_norm(3)]
    with ops.backend(backend):
        assert ops.mixed_norm_sum([z, last], torch.ones(2), norms).is_contiguous()
        y = ops.mixed_norm_sum([last, z], torch.ones(2), norms)
        y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert last.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5)])
def test_empty_tensors_in_eval_mode(backend, shape):
    z = torch.ones(shape, requires_grad=True)
    weights = torch.ones(1, requires_grad=True)
    with ops.backend(backend):
        y = ops.mixed_norm_sum([z], weights, [new_norm(3, training=False)])
        y.sum().backward()
    assert y.shape == z.grad.shape == shape
    assert weights.grad == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_gradcheck(backend, training, format):
    def tensor():
        return torch.randn(2, 3, 2, 3, dtype=torch.float64).contiguous(memory_format=format).requires_grad_()

    norms = [new_norm(3, affine=True, training=training, dtype=torch.float64, momentum=0.0) for _ in range(2)]
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def mixture(weights, *xs):
        return ops.mixed_norm_sum(xs[:2], weights[:2], norms, plain=xs[2:3], plain_weights=weights[2:])

    parameters = [p for norm in norms for p in norm.parameters()]
    with ops.backend(backend):
        assert torch.autograd.gradcheck(mixture, (weights, tensor(), tensor(), tensor(), *parameters))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_opcheck(dtype, format):
    xs = [torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=format) for _ in range(4)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights, gamma, beta = torch.randn(4, dtype=wide), torch.randn(3, 3, dtype=wide), torch.randn(3, 3, dtype=wide)
    torch.library.opcheck(torch.ops.asose_fast.batch_statistics, (xs[:3],))
    mean, var = batch_statistics(xs[:3])
    rstd, places = torch.rsqrt(var + 1e-5), torch.full_like(xs[1], 4, dtype=torch.uint8)
    torch.library.opcheck(torch.ops.asose_fast.mixed_norm_sum_fwd, (xs, weights, gamma, beta, mean, rstd, None, 0))
    torch.library.opcheck(torch.ops.asose_fast.mixed_norm_sum_fwd, (xs, weights, None, None, mean, rstd, places, 1))
    for read, need_x, need_sums in [
        ([True] * 4, [True] * 4, True),
        ([False, True, False, True], [False, True, True, False], True),
        ([False] * 4, [True] * 4, False),
        ([False] * 4, [False] * 4, True),
    ]:
        saved = [x for x, is_read in zip(xs, read, strict=True) if is_read]
        batch = read[:3]
        torch.library.opcheck(
            torch.ops.asose_fast.mixed_norm_sum_bwd,
            (
                xs[0],
                saved,
                weights,
                gamma,
                beta,
                mean,
                rstd,
                batch,
                read,
                need_x,
                need_sums and any(read),
                need_sums,
                format == torch.channels_last,
                None,
                0,
            ),
        )


def test_compiles_without_a_graph_break():
    zs = [torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(3)]
    norms = [new_norm(3, affine=True), new_norm(3, momentum=None), new_norm(3, training=False)]
    weights = torch.randn(4, requires_grad=True)
    leaves = [weights, *zs, *norms[0].parameters()]

    def mixture(norms):
        y = ops.mixed_norm_sum([z.relu() for z in zs], weights[:3], norms, plain=zs[:1], plain_weights=weights[3:])
        return y.tanh().sum()

    plain_norms = copy.deepcopy(norms)
    expected = torch.autograd.grad(mixture(plain_norms), [weights, *zs, *plain_norms[0].parameters()])
    got = torch.autograd.grad(torch.compile(mixture, fullgraph=True)(norms), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(norms, plain_norms, strict=True):
        torch.testing.assert_close(dict(a.named_buffers()), dict(b.named_buffers()))


def test_autocast_takes_the_widest_dtype():
    z = torch.randn(2, 3, 4, 5)
    norms = [new_norm(3), new_norm(3)]
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.mixed_norm_sum([z.bfloat16(), z], torch.ones(2), norms).dtype == torch.float32
        assert ops.mixed_norm_sum([z.bfloat16(), z.bfloat16()], torch.ones(2), norms).dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"one dtype outside autocast, got torch\.bfloat16, torch\.float32"):
        ops.mixed_norm_sum([z.bfloat16(), z], torch.ones(2), norms)


def test_plain_tensors_join_with_weight_one_by_default():
    z = torch.randn(2, 3, 4, 5)
    norm = new_norm(3)
    y = ops.mixed_norm_sum([z], torch.zeros(1), [norm], plain=[z, z])
    assert torch.equal(y, 2 * z)


def test_only_what_backward_reads_is_kept():
    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)

    def kept(training, need_weights):
        norms = [new_norm(3, training=training)] * 2
        y = ops.mixed_norm_sum([z, z], torch.ones(2, requires_grad=need_weights), norms, plain=[x])
        return sum(t is not None and t.dim() == 4 for t in y.grad_fn.saved_tensors)

    assert kept(training=True, need_weights=True) == 2
    assert kept(training=True, need_weights=False) == 2
    assert kept(training=False, need_weights=True) == 2
    assert kept(training=False, need_weights=False) == 0


@pytest.mark.parametrize("format", FORMATS)
def test_results_do_not_depend_on_the_thread_count(format):
    xs = [torch.randn(7, 13, 33, 31).contiguous(memory_format=format) for _ in range(4)]

    def results():
        norms = [nn.BatchNorm2d(13) for _ in range(3)]
        _, grads = gradients(ops.mixed_norm_sum, xs, torch.linspace(-1, 1, 4), norms, xs[0], [True] * 6)
        return [*grads.values(), *(b for norm in norms for b in norm.buffers())]

    first, *others = with_thread_counts(results)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 4, 4)])
def test_a_single_value_per_channel_is_refused_in_training(shape):
    norms = [new_norm(3), new_norm(3, training=False)]
    zs = [torch.ones(shape)] * 2
    with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
        ops.mixed_norm_sum(zs, torch.ones(2), norms)
    assert norms[0].num_batches_tracked == 0
    assert ops.mixed_norm_sum(zs, torch.ones(2), [norms[1]] * 2).shape == shape


Z = torch.ones(2, 3, 4, 5)
NORM = nn.BatchNorm2d(3)


@pytest.mark.parametrize(
    ("zs", "weights", "norms", "options", "message"),
    [
        ([], torch.ones(0), [], {}, "zs must hold at least 1 tensor, with plain at most 128, got 0 and 0"),
        ([Z] * 100, torch.ones(100), [NORM] * 100, {"plain": [Z] * 29}, "got 100 and 29"),
        ([[1.0]], torch.ones(1), [NORM], {}, r"zs\[0\] must be a tensor, got list"),
        ([Z[0]], torch.ones(1), [NORM], {}, r"zs\[0\] must be \(N, C, H, W\), got shape \(3, 4, 5\)"),
        ([Z], torch.ones(1), [NORM], {"plain": [Z[:1]]}, r"plain\[0\] has shape \(1, 3, 4, 5\), zs\[0\] has \(2, 3"),
        ([Z, Z.to("meta")], torch.ones(2), [NORM] * 2, {}, r"zs\[1\] is on meta, zs\[0\] on cpu"),
        ([Z.long()], torch.ones(1), [NORM], {}, r"zs\[0\] must be float16, bfloat16, float32 or float64"),
        ([Z], torch.ones(2), [NORM], {}, r"weights must be \(1,\), one a tensor, got \(2,\)"),
        ([Z], torch.ones(1).half(), [NORM], {}, "weights must be float32 or float64, got torch.float16"),
        ([Z], torch.ones(1, device="meta"), [NORM], {}, "weights are on meta, zs on cpu"),
        ([Z], torch.ones(1), [NORM], {"plain_weights": torch.ones(1)}, r"plain_weights must be \(0,\), one a tensor"),
        ([Z], torch.ones(1), [], {}, "norms must hold one module a z, got 0 for 1 zs"),
        ([Z], torch.ones(1), [nn.Identity()], {}, r"norms\[0\] must be an nn.BatchNorm2d, got Identity"),
        ([Z], torch.ones(1), [nn.BatchNorm2d(4)], {}, r"norms\[0\] is for 4 channels, zs have 3"),
        ([Z], torch.ones(1), [nn.BatchNorm2d(3, device="meta").eval()], {}, r"norms\[0\] has its weight on meta"),
        ([Z], torch.ones(1), [nn.BatchNorm2d(3, affine=False, device="meta").eval()], {},
         r"norms\[0\] has its running_mean on meta, must have it on cpu"),
        ([Z[:, :0]], torch.ones(1), [NORM], {}, r"zs must have channels, got shape \(2, 0, 4, 5\)"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(zs, weights, norms, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.mixed_norm_sum(zs, weights, norms, **options)

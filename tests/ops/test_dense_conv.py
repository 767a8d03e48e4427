"""dense_conv: every backend and instruction set of this machine against PyTorch's convolution, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import _native, ops
from asose_fast.ops import registry
from asose_fast.ops.dense import Dense
from asose_fast.ops.native.dense_conv import unfit
from asose_fast.ops.reference import dense_conv as plain
from tests.helpers import with_thread_counts

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("dense_conv", b, "cpu")]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}


def tolerance(dtype, weight):
    """Lines of seven taps, whose tiles have points of more different sizes, are half as exact."""
    line = dtype == torch.float32 and sorted(weight.shape[2:]) == [1, 7]
    return (2 if line else 1) * TOLERANCE[dtype]


def reference(x, weight, *, stride=1, relu=False):
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    return plain.reference(x, weight, Dense(*steps, relu))


@st.composite
def cases(draw, dtype):
    """x, weight, the gradient of y, stride, relu."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    channels = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 20, 24, 33, 40, 50, 64])
    size = st.one_of(st.integers(1, 12), st.sampled_from([16, 17, 33, 70]))
    kernel = draw(st.tuples(*[st.sampled_from([1, 3, 5, 7])] * 2))
    stride = draw(st.sampled_from([1, 1, 2, 4, (2, 1), (1, 3)]))
    x = torch.randn(draw(st.integers(1, 9)), draw(channels), draw(size), draw(size), generator=generator)
    scale = (kernel[0] * kernel[1] * x.shape[1]) ** 0.5
    weight = torch.randn(draw(channels), x.shape[1], *kernel, generator=generator) / scale
    x, weight, relu = x.to(dtype), weight.to(dtype), draw(st.booleans())
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    if draw(st.booleans()):
        weight = weight.contiguous(memory_format=torch.channels_last)
    y = reference(x.double(), weight.double(), stride=stride)
    return x, weight, torch.randn(y.shape, generator=generator).to(dtype), stride, relu


def run(function, x, weight, grad, stride, relu):
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(*leaves, stride=stride, relu=relu)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def assert_close(got, expected, tolerance):
    """Within `tolerance` of the largest value: every value is a sum of many."""
    for a, b in zip(got, expected, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, data):
    x, weight, grad, stride, relu = data.draw(cases(dtype))
    with ops.backend(backend):
        got = run(ops.dense_conv, x, weight, grad, stride, relu)
    assert [t.dtype for t in got] == [dtype] * 3
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in got[:2])
    expected = run(reference, x.double(), weight.double(), grad.double(), stride, relu)
    # A gradient of the weights is a sum over all pixels.
    assert_close(got[:2], expected[:2], tolerance(dtype, weight))
    assert_close(got[2:], expected[2:], 4 * tolerance(dtype, weight))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "shape", "outputs"),
    [
        ((3, 3), (2, 16, 4, 4), 16),
        ((3, 3), (3, 17, 9, 7), 33),
        ((3, 3), (2, 24, 16, 16), 24),
        ((3, 3), (3, 33, 3, 3), 16),
        ((3, 3), (1, 40, 13, 30), 24),
        ((3, 3), (1, 96, 20, 36), 72),  # strips of an image, and rounds of tiles
        ((3, 3), (40, 24, 11, 8), 48),  # slices
        ((3, 3), (5, 50, 5, 6), 64),  # tiles of 2x2, as of the next
        ((3, 3), (6, 24, 2, 2), 18),
        ((1, 7), (2, 16, 4, 4), 16),
        ((7, 1), (2, 16, 4, 4), 16),
        ((1, 7), (3, 17, 7, 9), 33),
        ((7, 1), (3, 17, 7, 9), 33),
        ((1, 7), (2, 24, 1, 17), 40),
        ((7, 1), (2, 24, 17, 1), 40),
        ((1, 7), (9, 20, 9, 3), 18),
        ((7, 1), (9, 20, 3, 9), 18),
        ((1, 7), (2, 96, 20, 38), 72),
        ((7, 1), (2, 96, 38, 20), 72),
        ((1, 7), (20, 24, 11, 8), 48),
        ((7, 1), (20, 24, 11, 8), 48),
    ],
)
def test_filtered_tiles_match_the_float64_reference(backend, dtype, kernel, shape, outputs):
    taps = kernel[0] * kernel[1]
    x, weight = torch.randn(shape).to(dtype), torch.randn(outputs, shape[1], *kernel).to(dtype)
    weight = weight / (taps * shape[1]) ** 0.5
    grad = torch.randn(shape[0], outputs, *shape[2:]).to(dtype)
    with ops.backend(backend):
        got = run(ops.dense_conv, x, weight, grad, 1, True)
    expected = run(reference, x.double(), weight.double(), grad.double(), 1, True)
    assert_close(got, expected, tolerance(dtype, weight))


@pytest.mark.parametrize(
    ("isa", "weight", "stride", "on_kernels"),
    [
        ("avx512", (24, 24, 3, 3), 1, True),
        ("avx512", (24, 24, 3, 3), 2, True),
        ("avx512", (24, 24, 1, 1), 1, False),
        ("avx512", (64, 64, 3, 3), 1, True),
        ("avx512", (256, 256, 3, 3), 1, True),
        ("avx2", (512, 512, 3, 3), 1, True),
        ("avx512", (512, 768, 3, 3), 1, False),
        ("avx512", (64, 64, 5, 5), 1, False),
        ("avx512", (64, 64, 5, 5), 2, True),
        ("avx512", (64, 68, 5, 5), 1, True),
        ("avx512", (64, 64, 1, 7), 2, True),
        ("avx512", (96, 96, 7, 1), 1, True),
        ("avx2", (64, 64, 1, 7), 1, True),
        ("avx2", (64, 64, 1, 7), 2, False),
        ("avx2", (64, 64, 1, 5), 1, False),
        ("avx2", (64, 8, 7, 1), 1, False),
        ("avx2", (512, 768, 7, 1), 1, False),
        ("avx2", (16, 24, 3, 3), 1, True),
        ("avx2", (24, 8, 3, 3), 1, False),
        ("generic", (24, 8, 3, 3), 1, True),
    ],
)
@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
def test_onednn_keeps_what_it_is_faster_at(monkeypatch, isa, weight, stride, on_kernels):
    monkeypatch.setattr(_native.kernels("cpu"), "isa", lambda: isa)
    conv = Dense(stride, stride, False)
    assert (unfit((64, weight[1], 16, 16), torch.float32, weight, conv) is None) == on_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tiles", [False, True])
def test_bfloat16_is_left_to_onednn_where_it_has_tiles(monkeypatch, dtype, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    reason = unfit((64, 24, 16, 16), dtype, (24, 24, 3, 3), Dense(1, 1, True))
    assert (reason is not None) == (tiles and dtype == torch.bfloat16)


@pytest.mark.parametrize(("images", "taken"), [(1, False), (2, True)])
def test_few_tiles_are_left_to_onednn(images, taken):
    assert (unfit((images, 96, 4, 6), torch.float32, (96, 96, 3, 3), Dense(1, 1, True)) is None) == taken


@pytest.mark.parametrize(("kernel", "error"), [((3, 3), 2e-6), ((1, 1), 2e-6), ((5, 1), 2e-6), ((7, 1), 5e-6)])
@pytest.mark.parametrize("shape", [(64, 24, 16, 16), (64, 16, 4, 4), (3, 70, 40, 9)])
def test_float32_is_as_exact_as_its_sums(kernel, error, shape):
    """Of the sizes of a search, where tiles and slices are many: the error beside float64, relative to the largest."""
    x, weight = torch.randn(shape), torch.randn(shape[1], shape[1], *kernel) / (9 * shape[1]) ** 0.5
    grad = torch.randn(shape)
    with ops.backend(BACKENDS[-1]):
        got = run(ops.dense_conv, x, weight, grad, 1, True)
    assert_close(got, run(reference, x.double(), weight.double(), grad.double(), 1, True), error)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
@pytest.mark.parametrize("kernel", [(1, 7), (3, 3), (5, 1), (1, 1)])
@pytest.mark.parametrize("stride", [(1, 2), (2, 1), 2, 3])
@pytest.mark.parametrize("shape", [(64, 16, 16, 16), (3, 24, 9, 1), (2, 5, 1, 8), (1, 33, 40, 70)], ids=str)
def test_gradients_of_strided_inputs(shape, stride, kernel):
    """Inputs that no output sees get 0."""
    x, weight = torch.randn(shape), torch.randn(19, shape[1], *kernel) / (kernel[0] * kernel[1] * shape[1]) ** 0.5
    grad = torch.randn_like(reference(x, weight, stride=stride))
    with ops.backend("cpu"):
        got = run(ops.dense_conv, x, weight, grad, stride, True)
    assert_close(got, run(reference, x.double(), weight.double(), grad.double(), stride, True), 5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (1, 1)])
def test_gradcheck(backend, stride, kernel):
    x = torch.randperm(120).sub(60.5).double().div(50).view(2, 3, 4, 5).requires_grad_()  # none within a step of 0
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
    with ops.backend(backend):
        assert torch.autograd.gradcheck(lambda *leaves: ops.dense_conv(*leaves, stride=stride, relu=True), (x, weight))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5)])
def test_only_what_is_needed_is_computed(backend, kernel):
    x, weight = torch.randn(2, 5, 6, 7), torch.randn(4, 5, *kernel)
    with ops.backend(backend):
        both = run(ops.dense_conv, x, weight, torch.ones(2, 4, 6, 7), 1, True)
        for i, leaf in enumerate((x, weight)):
            leaf.requires_grad_()
            y = ops.dense_conv(x, weight, relu=True)
            (grad,) = torch.autograd.grad(y.sum(), [leaf])
            leaf.requires_grad_(False)
            assert torch.equal(grad, both[1 + i])
    assert not ops.dense_conv(x, weight).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_where_it_is_seen(backend):
    """A NaN passes the ReLU both ways; -inf gives 0 and takes no gradient; other lines see nothing."""
    x = torch.ones(1, 2, 4, 5)
    x[0, 0, 1, 2], x[0, 1, 3, 0] = torch.nan, -torch.inf
    with ops.backend(backend):
        y, grad_x, _ = run(ops.dense_conv, x, torch.ones(3, 2, 1, 3), torch.ones(1, 3, 4, 5), 1, True)
    assert y[0, 0].isnan().nonzero().tolist() == [[1, 1], [1, 2], [1, 3]]
    assert y[0, 0, 3].tolist() == [3, 5, 6, 6, 4]
    assert grad_x[0, 1, 3, 0] == 0
    assert grad_x[0, 0, 1, 2] == 9


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
@pytest.mark.parametrize(("size", "tile"), [((9, 7), 4), ((6, 5), 2)])
@pytest.mark.parametrize("place", [(4, 3), (5, 4), (0, 0), (1, 2)])
def test_a_nan_stays_in_the_tiles_whose_windows_see_it(size, tile, place):
    """Every output that sees it is NaN. In tiles of 4x4 others may be too, in those of 2x2 none."""
    x, weight = torch.ones(2, 16, *size), torch.ones(16, 16, 3, 3)
    x[1, 3, place[0], place[1]] = torch.nan
    seeing, spoilt = torch.zeros(2, *size, dtype=torch.bool)
    seeing[tuple(slice(max(0, p - 1), p + 2) for p in place)] = True
    spoilt[tuple(slice(max(0, p - 1) // 4 * 4, (p + 1) // 4 * 4 + 4) for p in place)] = True
    with ops.backend("cpu"):
        y, grad_x, _ = run(ops.dense_conv, x, weight, torch.where(x.isnan(), x, 1.0), 1, False)
    for result in (y, grad_x):
        assert not result[0].isnan().any()
        assert result[1, :, seeing].isnan().all()
        assert not result[1, :, ~(spoilt if tile == 4 else seeing)].isnan().any()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
@pytest.mark.parametrize("place", [0, 3, 4, 6, 8])
@pytest.mark.parametrize("vertical", [False, True])
def test_a_nan_stays_in_the_tiles_of_four_of_its_line(vertical, place):
    x, weight = torch.ones(2, 16, 3, 9), torch.ones(16, 16, 1, 7)
    x[1, 5, 1, place] = torch.nan
    seeing, spoilt = torch.zeros(2, 3, 9, dtype=torch.bool)
    first, last = max(0, place - 3), place + 3
    seeing[1, first : last + 1] = True
    spoilt[1, first // 4 * 4 : last // 4 * 4 + 4] = True
    if vertical:
        x, weight, seeing, spoilt = (t.transpose(-1, -2) for t in (x, weight, seeing, spoilt))
    with ops.backend("cpu"):
        y, grad_x, _ = run(ops.dense_conv, x, weight, x, 1, False)
    for result in (y, grad_x):
        assert not result[0].isnan().any()
        assert result[1, :, seeing].isnan().all()
        assert not result[1, :, ~spoilt].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    x, weight = torch.ones(0, 3, 4, 5, requires_grad=True), torch.ones(2, 3, 1, 7, requires_grad=True)
    with ops.backend(backend):
        y = ops.dense_conv(x, weight, stride=2)
        y.sum().backward()
    assert y.shape == (0, 2, 2, 3)
    assert x.grad.shape == x.shape
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(backend, dtype, stride):
    x = torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(4, 3, 3, 5)
    weight = weight.double() if dtype is torch.float64 else weight.contiguous(memory_format=torch.channels_last)
    conv = stride, stride, True
    with ops.backend(backend):
        torch.library.opcheck(torch.ops.asose_fast.dense_conv_fwd, (x, weight, *conv))
        grad = torch.ops.asose_fast.dense_conv_fwd(x, weight, *conv)
        for needs in [(True, True), (True, False), (False, True)]:
            torch.library.opcheck(torch.ops.asose_fast.dense_conv_bwd, (grad, x, weight, *conv, *needs))


def test_compiles_without_a_graph_break():
    x, weight = torch.randn(2, 3, 8, 9, requires_grad=True), torch.randn(4, 3, 7, 1, requires_grad=True)

    def layer(x, weight):
        return ops.dense_conv(x.tanh(), weight, stride=2, relu=True).square().sum()

    expected = torch.autograd.grad(layer(x, weight), (x, weight))
    got = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x, weight), (x, weight))
    torch.testing.assert_close(got, expected)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3), 1), ((7, 1), 1), ((1, 7), 1), ((5, 1), 1), ((1, 1), 1), ((1, 7), (1, 2)), ((3, 3), 2)],
)
def test_results_do_not_depend_on_the_thread_count_or_on_what_memory_holds(kernel, stride):
    x = torch.linspace(-1, 1, 5 * 20 * 35 * 37).sin().view(5, 20, 35, 37)
    weight = torch.linspace(-1, 1, 36 * 20 * kernel[0] * kernel[1]).view(36, 20, *kernel)
    torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
    with ops.backend("cpu"):
        grad = torch.ones_like(ops.dense_conv(x, weight, stride=stride))
        first, *others = with_thread_counts(lambda: run(ops.dense_conv, x, weight, grad, stride, True))
    torch.use_deterministic_algorithms(False)
    for result in others:
        for a, b in zip(result, first, strict=True):
            assert torch.equal(a, b)


def test_autocast_chooses_the_dtype():
    x, weight = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(4, 3, 1, 7, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.dense_conv(x, weight)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == weight.grad.dtype == torch.float32


X = torch.ones(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ([1.0], torch.ones(2, 2, 1, 3), {}, "x must be a tensor, got list"),
        (X.long(), torch.ones(2, 2, 1, 3), {}, "x must be float16, bfloat16, float32 or float64, got torch.int64"),
        (X[0], torch.ones(2, 2, 1, 3), {}, r"x must be \(N, C, H, W\) with C, H, W > 0, got \(2, 3, 4\)"),
        (X, torch.ones(2, 2, 1, 3).int(), {}, "weight must be a floating tensor, got torch.int32"),
        (X, torch.ones(2, 3, 1, 3), {}, r"weight must be .* with C_in = 2, got \(2, 3, 1, 3\)"),
        (X, torch.ones(2, 2, 1, 4), {}, r"the kernel of weight must be odd, got \(1, 4\)"),
        (X, torch.ones(2, 2, 0, 3), {}, r"weight must be \(C_out, C_in, k_h, k_w\) .* got \(2, 2, 0, 3\)"),
        (X, torch.ones(2, 2, 1, 3, device="meta"), {}, "weight is on meta, x on cpu"),
        (X, torch.ones(2, 2, 1, 3), {"stride": 0}, "stride must be 1 or more, got 0"),
        (X, torch.ones(2, 2, 1, 3), {"stride": (1, 2, 1)}, "stride must hold 2 values, got 3"),
        (X, torch.ones(2, 2, 1, 3), {"stride": 1.5}, "stride must be an integer"),
        (X, torch.ones(2, 2, 1, 3), {"relu": 1}, "relu must be True or False, got int 1"),
    ],
)
def test_bad_input_is_refused(x, weight, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.dense_conv(x, weight, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_any_strides(backend, dtype):
    if registry.why_not("dense_conv", backend, "cpu", dtype):
        pytest.skip("no kernels for the dtype")
    x, weight = torch.randn(1, 2, 1, 2).to(dtype), torch.randn(1, 2, 1, 3).to(dtype)
    back = (3, 2, 1, 0)
    grads = []
    for laid_out in (weight, weight.permute(back).contiguous().permute(back), torch.stack([weight] * 2, -1)[..., 0]):
        leaf = laid_out.detach().requires_grad_()
        with ops.backend(backend):
            ops.dense_conv(x, leaf).float().square().sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])

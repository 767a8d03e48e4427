"""conv_norm: to the bit what its two operators give, with whatever gradients are asked for."""

import copy

import pytest
import torch

from asose_fast import _native, ops
from asose_fast.ops import registry
from asose_fast.ops.dense import Dense
from asose_fast.ops.native.conv_norm import unfit
from tests.helpers import with_thread_counts
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("dense_conv", b, "cpu")]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CALLS = [
    {"relu": True},
    {"pool": 2},
    {"relu": True, "stride": (2, 1)},
    {"relu": True, "blend": True},
    {"blend": True, "stride": 2},
    {"relu": True, "kernel": 1},
    {"kernel": 1, "pool": 2},
    {"relu": True, "kernel": 1, "blend": True},
]


def leaves(call, dtype, shape=(3, 17, 7, 6), out=16, layout=torch.channels_last):
    """x and weight, then a shortcut and a gain where the call blends, all of which want gradients."""
    n, channels, height, width = shape
    kernel = call.get("kernel", 3)
    tensors = [torch.randn(shape), torch.randn(out, channels, kernel, kernel) / channels]
    if call.get("blend"):
        step = call.get("stride", 1)
        tensors += [torch.randn(n, out, -(-height // step), -(-width // step)), torch.tensor(0.3)]
    return [
        t.to(dtype, memory_format=layout if t.dim() == 4 else torch.preserve_format).requires_grad_() for t in tensors
    ]


def in_one(call, norm, x, weight, *blend):
    options = {name: value for name, value in call.items() if name not in ("blend", "kernel")}
    return ops.conv_norm(x, weight, norm, **options, **dict(zip(("shortcut", "gain"), blend, strict=False)))


def in_turn(call, norm, x, weight, *blend):
    z = ops.dense_conv(x, weight, stride=call.get("stride", 1), relu=call.get("relu", False))
    return ops.norm_lerp(z, norm, *blend) if blend else ops.norm_pool(z, norm, call.get("pool", 1))


def results(run, call, norm, tensors, asked):
    """y, the gradients that are asked for, and the buffers of the norm."""
    norm = copy.deepcopy(norm)
    named = dict(norm.named_parameters())
    y = run(call, norm, *tensors)
    torch.manual_seed(1)
    wanted = [named[i] if isinstance(i, str) else tensors[i] for i in asked]
    return [y, *torch.autograd.grad(y, wanted, torch.randn_like(y)), *norm.buffers()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_the_two_operators(dtype, kind, call, backend):
    norm, tensors = new_norm(16, **KINDS[kind]), leaves(call, dtype, layout=LAYOUTS[len(kind) % 2])
    asked = [*range(len(tensors)), *(name for name, _ in norm.named_parameters())]
    with ops.backend(backend):
        found, wanted = (results(run, call, norm, tensors, asked) for run in (in_one, in_turn))
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(found, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("asked", [[0], [1], ["weight"], ["bias"], [0, "bias"], [2], [3]], ids=str)
def test_the_gradients_that_are_asked_for_alone(asked, blend, training, backend):
    call = {"relu": True, "blend": blend}
    norm, tensors = new_norm(16, training=training), leaves(call, torch.float32)
    if asked[0] in (2, 3) and not blend:
        pytest.skip("there is no such tensor")
    for i, leaf in enumerate(tensors):
        leaf.requires_grad_(i in asked)
    for name, parameter in norm.named_parameters():
        parameter.requires_grad_(name in asked)
    with ops.backend(backend):
        found, wanted = (results(run, call, norm, tensors, asked) for run in (in_one, in_turn))
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "out"), [(3, 5), (16, 32), (24, 48), (33, 20), (40, 64)])
def test_projections_match_the_float64_reference(channels, out, training, backend):
    call = {"relu": True, "kernel": 1}
    norm, tensors = new_norm(out, training=training), leaves(call, torch.float32, (5, channels, 11, 6), out)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    asked = [0, 1, "weight", "bias"]
    with ops.backend(backend):
        found = results(in_one, call, norm, tensors, asked)
    with ops.backend("reference"):
        wanted = results(in_turn, call, copy.deepcopy(norm).double(), wide, asked)
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 1e-5 * b.abs().max().clamp_min(1)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU kernels are not built")
@pytest.mark.parametrize(
    ("shape", "dtype", "weight", "stride", "taken"),
    [
        ((64, 16, 16, 16), torch.float32, (32, 16, 1, 1), 1, True),
        ((2, 64, 4, 4), torch.float32, (64, 64, 1, 1), 1, True),
        ((64, 512, 4, 4), torch.float32, (512, 512, 1, 1), 1, False),
        ((64, 16, 16, 16), torch.bfloat16, (32, 16, 1, 1), 1, False),
        ((64, 16, 16, 16), torch.float32, (32, 16, 1, 1), 2, False),
        ((64, 24, 16, 16), torch.float32, (24, 24, 3, 3), 1, True),
        ((64, 24, 16, 16), torch.float32, (24, 24, 3, 3), 2, True),
        ((64, 24, 16, 16), torch.bfloat16, (24, 24, 3, 3), 2, False),
    ],
)
def test_onednn_keeps_what_it_is_faster_at(monkeypatch, shape, dtype, weight, stride, taken):
    monkeypatch.setattr(_native.kernels("cpu"), "isa", lambda: "avx512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert (unfit(shape, dtype, weight, Dense(stride, stride, True)) is None) == taken


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU kernels are not built")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", [{"pool": 2, "relu": True}, {"relu": True}, {"relu": True, "kernel": 1}], ids=str)
@pytest.mark.parametrize("shape", [(2, 16, 70, 41), (70, 16, 9, 5), (3, 3, 37, 21), (2, 72, 12, 12)], ids=str)
def test_parts_of_images_and_of_batches_on_any_number_of_threads(shape, call, dtype):
    norm, tensors, asked = new_norm(16), leaves(call, dtype, shape), [0, 1, "weight", "bias"]
    with ops.backend("cpu"):
        wanted = results(in_turn, call, norm, tensors, asked)
        for found in with_thread_counts(lambda: results(in_one, call, norm, tensors, asked)):
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 17, 7, 6), (3, 3, 7, 6)], ids=str)
def test_what_is_not_blended_in_gets_gradients_of_0(shape, backend):
    x, weight, shortcut, gain = leaves({"blend": True}, torch.float32, shape)
    with ops.backend(backend):
        y = ops.conv_norm(x, weight, new_norm(16), shortcut=shortcut, gain=gain.detach() * 0)
        found = torch.autograd.grad(y, [x, weight], torch.full_like(y, torch.inf))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found)


def test_under_autocast_it_computes_in_the_dtype_of_that():
    call, norm = {"relu": True, "pool": 2}, new_norm(16)
    tensors = leaves(call, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = (results(run, call, norm, tensors, [0, 1, "weight"]) for run in (in_one, in_turn))
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"conv_norm: x must be \(N, C, H, W\)"),
        ({"weight": torch.ones(4, 2, 3, 3)}, ValueError, "weight must be .* with C_in = 3"),
        ({"weight": torch.ones(4, 3, 2, 3)}, ValueError, "the kernel of weight must be odd"),
        ({"stride": 0}, ValueError, "stride must be 1 or more"),
        ({"relu": 1}, TypeError, "relu must be"),
        ({"pool": 3}, ValueError, "pool must be 1 or 2, got 3"),
        ({"norm": torch.nn.BatchNorm2d(3)}, ValueError, "norm is for 3 channels, weight gives 4"),
        ({"gain": torch.tensor(0.5)}, ValueError, "shortcut and gain must be given together"),
        ({"gain": torch.tensor(0.5), "shortcut": torch.ones(2, 4, 5, 5), "pool": 2}, ValueError, "without a pool"),
        ({"gain": torch.tensor(0.5), "shortcut": torch.ones(2, 4, 5, 4)}, ValueError, "shortcut must be"),
        ({"gain": torch.ones(2), "shortcut": torch.ones(2, 4, 5, 5)}, ValueError, "gain must be a floating scalar"),
        ({"x": torch.ones(1, 3, 1, 1)}, ValueError, "more than 1 value per channel"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, match):
    right = {"x": torch.randn(2, 3, 5, 5), "weight": torch.randn(4, 3, 3, 3), "norm": torch.nn.BatchNorm2d(4)}
    with pytest.raises(error, match=match):
        ops.conv_norm(**right | changes)

"""What PyTorch computes wrongly: whether it still does, and that what this package computes in its place is right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.torch_faults import FAULTS, VERSION, conv2d, convolution_backward, usual_strides
from asose_fast.space import CANDIDATES, MixedOp
from asose_fast.space.build import build, make_spec
from asose_fast.space.candidates import KNOWN, build_candidate
from asose_fast.space.convolution import Conv2d
from asose_fast.space.parts import run_on_kernels
from tests.helpers import make_config, python

LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced", "stepped", "expanded", "odd strides")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BAND = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02, torch.float64: 1e-10}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laid_out(t: Tensor, layout: str, choice: int = 0) -> Tensor:
    """The values of `t` (where expanded: some of them) in a layout; `choice` says in which way."""
    if layout == "channels_last":
        return torch.empty_like(t, memory_format=torch.channels_last).copy_(t)
    if layout == "permuted":
        order = [(choice + i) % 4 for i in range(4)]
        return t.permute(order).contiguous().permute([order.index(i) for i in range(4)])
    if layout == "sliced":
        return F.pad(t, [1] * 8)[tuple(slice(1, 1 + size) for size in t.shape)]
    if layout == "stepped":
        wide = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (wide.contiguous(memory_format=torch.channels_last) if choice % 2 else wide)[:, :, ::2, ::2]
    if layout == "expanded":
        return t.narrow(choice % 4, 0, 1).expand(t.shape)
    if layout == "odd strides":
        t = t.contiguous(memory_format=torch.channels_last) if choice % 2 else t.contiguous()
        odd = [
            s if n != 1 else (1, 7, 0)[(choice + i) % 3]
            for i, (n, s) in enumerate(zip(t.shape, t.stride(), strict=True))
        ]
        return t.as_strided(t.shape, odd)
    return t.contiguous()


def off(got: Tensor, expected: Tensor) -> bool:
    """Whether something is wrong by far more than rounding."""
    return not (got.double() - expected).abs().max() <= BAND[got.dtype] * expected.abs().max().clamp_min(0.1)


def exact(x: Tensor, weight: Tensor, grad: Tensor, options: tuple) -> list[Tensor]:
    """Output and gradients of a convolution tap by tap in float64; options: stride, padding, dilation, groups."""
    stride, padding, dilation, groups = options
    x, weight = (t.double().contiguous().requires_grad_() for t in (x.detach(), weight.detach()))
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    y: Tensor | float = 0.0
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            rows, columns = (
                slice(at * d, at * d + (size - 1) * step + 1, step)
                for at, d, size, step in zip((i, j), dilation, grad.shape[2:], stride, strict=True)
            )
            pixels, tap = padded[:, :, rows, columns], weight[:, :, i, j]
            y = y + (torch.einsum("nihw,oi->nohw", pixels, tap) if groups == 1 else pixels * tap.view(1, -1, 1, 1))
    assert isinstance(y, Tensor)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad.double().contiguous())]


def batch_norm_is_off(x: Tensor, grad: Tensor) -> bool:
    leaf = x.detach().requires_grad_()
    (got,) = torch.autograd.grad(F.batch_norm(leaf, None, None, training=True), leaf, grad)
    wide = x.double().contiguous().requires_grad_()
    (expected,) = torch.autograd.grad(F.batch_norm(wide, None, None, training=True), wide, grad.double().contiguous())
    return off(got, expected)


def one_pixel_wide() -> bool:
    found = []
    for taps in (3, 5, 9):
        options = (1, 2), (0, taps // 2), (1, 1), 1
        x, weight, grad = (random(*shape).bfloat16() for shape in [(8, 16, 7, 1), (16, 16, 1, taps), (8, 16, 7, 1)])
        _, got, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *options[:3], False, [0, 0], 1, [False, True, False]
        )
        found.append(off(got, exact(x, weight, grad, options)[2]))
    return any(found)


def one_input_channel() -> bool:
    x, weight = laid_out(random(8, 1, 16, 1), "channels_last"), random(16, 1, 1, 7)
    options = (1, 2), (0, 3), (1, 1), 1
    return off(F.conv2d(x, weight, None, *options[:2]), exact(x, weight, random(8, 16, 16, 1), options)[0])


def output_one_pixel_wide() -> bool:
    x, weight, options = random(2, 3, 17, 2).bfloat16(), random(4, 3, 3, 3).bfloat16(), ((1, 2), (1, 1), (1, 1), 1)
    return off(F.conv2d(x, weight, None, *options[:2]), exact(x, weight, random(2, 4, 17, 1), options)[0])


def strides_of_the_weight() -> bool:
    weight = random(3, 3, 1, 5).double().as_strided((3, 3, 1, 5), (15, 1, 7, 3))
    x, grad = laid_out(random(2, 3, 4, 5).double(), "channels_last"), random(2, 3, 4, 5).double()
    try:
        torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], [0, 2], [1, 1], False, [0, 0], 1, [True, True, False]
        )
    except RuntimeError as error:
        return "must be contiguous" in str(error)
    return False


def pointwise_of_stride_2() -> bool:
    """In a process of its own, whose heap it damages, with oneDNN held to AVX2 on any processor that has it."""
    program = """
import torch
for channels in (1, 5, 7) * 6:
    for out in (1, 2, 8, 17, 32, 64):
        for side in (1, 2, 3, 4, 8, 9, 16):
            for n in (1, 2, 3, 8):
                x = torch.randn(n, channels, side, side).contiguous(memory_format=torch.channels_last)
                grad = torch.randn(n, out, -(-side // 2), -(-side // 2))
                torch.ops.aten.convolution_backward(
                    grad, x, torch.randn(out, channels, 1, 1), None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1,
                    [True, True, False],
                )
"""
    return python("-c", program, ONEDNN_MAX_CPU_ISA="AVX2").returncode != 0


def batch_norm_of_mixed_layouts() -> bool:
    grad = laid_out(random(1, 3, 4, 5), "channels_last").as_strided((1, 3, 4, 5), (3, 1, 15, 3))
    return batch_norm_is_off(random(1, 3, 4, 5, seed=1), grad) and batch_norm_is_off(grad, random(1, 3, 4, 5, seed=1))


BARE: dict[str, Callable[[], bool]] = {
    "weight gradient, one pixel wide": one_pixel_wide,
    "one input channel": one_input_channel,
    "output, one pixel wide": output_one_pixel_wide,
    "strides of the weight": strides_of_the_weight,
    "pointwise of stride 2": pointwise_of_stride_2,
    "batch norm of mixed layouts": batch_norm_of_mixed_layouts,
}


def test_every_fault_is_looked_at():
    assert list(BARE) == list(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_torch_is_still_wrong(name):
    fault, capability = FAULTS[name], torch.backends.cpu.get_cpu_capability()
    if not torch.__version__.startswith(f"{VERSION}."):
        pytest.skip(f"seen in torch {VERSION}, this is {torch.__version__}")
    if "ONEDNN_MAX_CPU_ISA" in os.environ or not torch.backends.mkldnn.is_available():
        pytest.skip("this is not oneDNN as it comes")
    seen = {
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512": capability == "AVX512",
        "avx2": capability in ("AVX2", "AVX512"),
        "any": True,
    }
    if not seen[fault.isa]:
        pytest.skip(f"seen on {fault.isa}, this is {capability}")
    if not BARE[name]():
        pytest.fail(f"torch has mended this: drop the workaround in {fault.where}")


@st.composite
def convolutions(draw):
    """x, weight, the gradient of y, and stride, padding, dilation and groups."""
    height, width = draw(st.sampled_from([(1, 3), (1, 5), (1, 9), (7, 1), (3, 3), (5, 5), (1, 1)]))
    dilation = draw(st.sampled_from([1, 2])) if height == width else 1
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1)]))
    channels, depthwise = draw(st.sampled_from([1, 1, 3, 8, 16])), draw(st.booleans())
    out = channels if depthwise else draw(st.sampled_from([1, 3, 8, 16]))
    x = random(draw(st.sampled_from([1, 2, 8])), channels, *(draw(st.sampled_from([1, 2, 3, 8])) for _ in range(2)))
    groups = channels if depthwise else 1
    weight = random(out, channels // groups, height, width, seed=1) / (height * width * channels // groups) ** 0.5
    padding = dilation * (height - 1) // 2, dilation * (width - 1) // 2
    grad = random(len(x), out, *(-(-size // step) for size, step in zip(x.shape[2:], stride, strict=True)), seed=2)
    dtype = draw(st.sampled_from(DTYPES))
    layouts = st.tuples(st.sampled_from(LAYOUTS), st.integers(0, 5))
    x, weight, grad = (laid_out(t.to(dtype), *draw(layouts)) for t in (x, weight, grad))
    return x, weight, grad, (stride, padding, (dilation, dilation), groups)


@settings(deadline=None, max_examples=300)
@given(convolutions())
def test_convolutions_are_right_in_every_layout(case):
    x, weight, grad, options = case
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = conv2d(*leaves, *options)
    got = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    expected = exact(x, weight, grad, options)
    assert not any(map(off, got, expected))
    if weight.shape[2:] != (1, 1):
        for need_x, need_weight in [(True, True), (True, False), (False, True)]:
            grads = convolution_backward(grad, x, weight, *options, need_x=need_x, need_weight=need_weight)
            assert [g is not None for g in grads] == [need_x, need_weight]
            assert not any(off(g, e) for g, e in zip(grads, expected[1:], strict=True) if g is not None)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (2, 3, 4, 1), (1, 1, 1, 1), (1, 0, 3, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_strides_change_strides_alone(shape, layout):
    for choice in range(6):
        t = random(*shape)
        t = laid_out(t, layout, choice) if t.numel() else t
        got = usual_strides(t.requires_grad_())
        formats = torch.contiguous_format, torch.channels_last
        assert torch.equal(got, t)
        assert got.numel() <= 1 or got.stride() in [torch.empty(shape, memory_format=f).stride() for f in formats]
        if t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last):
            assert got.data_ptr() == t.data_ptr()
        got.sum().backward()
        assert torch.equal(t.grad, torch.ones(shape))


def test_usual_strides_leave_others_alone():
    for t in (random(2, 3, 4, 5).permute(3, 1, 0, 2), random(1, 3).t(), random(0, 1, 3, 3)):
        assert usual_strides(t) is t


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(8, 1, 16, 1), (8, 16, 7, 1), (3, 16, 1, 1), (1, 3, 4, 5), (2, 1, 3, 2)]),
    st.sampled_from([(1, 5), (1, 9), (5, 1)]),
    st.sampled_from([1, 2]),
    st.sampled_from(DTYPES),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.integers(0, 5),
    st.sampled_from([None, "reference"]),
)
def test_line_conv_is_right_in_every_layout(shape, kernel, stride, dtype, layouts, choice, backend):
    strides = (stride, 1) if kernel[0] > 1 else (1, stride)
    padding = kernel[0] // 2, kernel[1] // 2
    out = [-(-size // step) for size, step in zip(shape[2:], strides, strict=True)]
    tensors = random(*shape), random(16, shape[1], *kernel, seed=1) / 8, random(shape[0], 16, *out, seed=2)
    x, weight, grad = (laid_out(t.to(dtype), layout, choice) for t, layout in zip(tensors, layouts, strict=True))
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    with ops.backend(backend) if backend else contextlib.nullcontext():
        y = ops.line_conv(*leaves, stride=stride)
        got = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    assert not any(map(off, got, exact(x, weight, grad, (strides, padding, (1, 1), 1))))


@pytest.mark.parametrize("shape", [(4, 16, 7, 1), (8, 1, 16, 1), (8, 1, 16, 2), (3, 5, 2, 2)])
@pytest.mark.parametrize("kernel", [(1, 7), (7, 1), 3, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_module_is_right_where_an_axis_is_short(shape, kernel, dtype, depthwise):
    channels = shape[1]
    conv = Conv2d(channels, channels, kernel, (1, 2) if kernel == (1, 7) else 2, groups=channels if depthwise else 1)
    conv.to(dtype, memory_format=torch.channels_last)
    x = laid_out(random(*shape).to(dtype), "channels_last").requires_grad_()
    y = conv(x)
    grad = laid_out(random(*y.shape, seed=1).to(dtype), "channels_last")
    got = [y.detach(), *torch.autograd.grad(y, (x, conv.weight), grad)]
    options = conv.stride, conv.padding, conv.dilation, conv.groups
    assert not any(map(off, got, exact(x, conv.weight, grad, options)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_users_module_is_right_where_a_sequence_runs_part_by_part(dtype):
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1, bias=False)).to(dtype)
    x = laid_out(random(4, 16, 9, 2).to(dtype), "channels_last")
    y = run_on_kernels(module, x)
    assert not off(y.detach(), exact(x.relu(), module[1].weight, y.detach(), ((2, 2), (1, 1), (1, 1), 1))[0])


@pytest.mark.parametrize("space", ["chain", "stages", "darts", "nasbench201"])
def test_networks_stride_with_that_module(space):
    with torch.device("meta"):
        network = build(make_spec(make_config(space=space), 3, 10))
        candidates = [build_candidate(name, 4, 2) for name in KNOWN]
    for module in (*network.modules(), *nn.ModuleList(candidates).modules()):
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            assert type(module) is Conv2d


@pytest.mark.parametrize("name", sorted(set(CANDIDATES) - {"none"}))
@pytest.mark.parametrize("gain", [None, 0.5])
@pytest.mark.parametrize("weighed", [False, True])
def test_a_mixed_operation_is_right_with_any_gradient(name, gain, weighed):
    """The gradient of an image of its own, laid out as pixels of channels, where x is contiguous; and the reverse."""
    torch.manual_seed(0)
    mixed = MixedOp.named([name], 4, 1, fused=False)
    gain = None if gain is None else torch.tensor(gain)
    weights = torch.tensor([0.7]) if weighed else None
    for x, grad in [("contiguous", "odd strides"), ("channels_last", "contiguous"), ("odd strides", "contiguous")]:
        leaf = laid_out(random(1, 4, 5, 6), x, 1).requires_grad_()
        g = laid_out(random(1, 4, 5, 6, seed=1), grad, 1)
        plain = random(1, 4, 5, 6).requires_grad_()
        (got,) = torch.autograd.grad(mixed(leaf, weights, 0, gain=gain), leaf, g)
        (expected,) = torch.autograd.grad(mixed(plain, weights, 0, gain=gain), plain, g.contiguous().clone())
        torch.testing.assert_close(got, expected)


def test_a_lone_skip_leaves_no_hook_on_x():
    x = random(1, 4, 5, 6).requires_grad_()
    mixed = MixedOp({"skip": nn.Identity()})
    for _ in range(2):
        assert mixed(x) is x
    assert not x._backward_hooks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_line_conv_of_one_channel_is_right(dtype, backend):
    x, weight = laid_out(random(8, 1, 16, 2).to(dtype), "channels_last"), random(16, 1, 1, 7, seed=1).to(dtype)
    grad = random(8, 16, 16, 1, seed=2).to(dtype)
    if registry.why_not("line_conv", backend, "cpu", dtype):
        pytest.skip("no kernels")
    with ops.backend(backend):
        assert not off(ops.line_conv(x, weight, stride=2), exact(x, weight, grad, ((1, 2), (0, 3), (1, 1), 1))[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_line_conv_takes_a_weight_of_any_strides(dtype):
    weight = random(3, 3, 1, 5).to(dtype).as_strided((3, 3, 1, 5), (15, 1, 7, 3)).requires_grad_()
    x, grad = laid_out(random(2, 3, 4, 5).to(dtype), "channels_last"), random(2, 3, 4, 5).to(dtype)
    with ops.backend("reference"):
        (got,) = torch.autograd.grad(ops.line_conv(x, weight), weight, grad)
    assert not off(got, exact(x, weight, grad, ((1, 1), (0, 2), (1, 1), 1))[2])

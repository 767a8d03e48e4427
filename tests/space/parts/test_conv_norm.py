"""Dense convolutions with their norms as one node: what their modules give, and where these run themselves."""

import copy

import pytest
import torch
from torch import nn

from asose_fast.ops import registry
from asose_fast.ops.dense import Dense
from asose_fast.ops.dense_conv import has_kernels
from asose_fast.space import MixedOp
from asose_fast.space.parts import conv_norm as parts
from asose_fast.space.parts import run_on_kernels
from tests.space.parts.test_norm import assert_alike

pytestmark = pytest.mark.skipif(
    not registry.has_kernels("dense_conv", "cpu", torch.float32), reason="the kernels are not built"
)
CHANNELS = 16  # as many as all instruction sets have a convolution for


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What each call of the operator was given besides its tensors, where oneDNN has no tiles of bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    called, operator = [], parts.conv_norm

    def counted(x, weight, norm, *, stride, relu, checked, **rest):
        called.append((stride, relu, *rest))
        return operator(x, weight, norm, stride=stride, relu=relu, checked=checked, **rest)

    monkeypatch.setattr(parts, "conv_norm", counted)
    return called


def images(side=8):
    return torch.randn(3, CHANNELS, side, side).contiguous(memory_format=torch.channels_last)


def conv(**options):
    return nn.Conv2d(CHANNELS, CHANNELS, 3, **{"padding": 1, "bias": False} | options)


def projection(**options):
    return nn.Conv2d(CHANNELS, 3, 1, bias=False, **options)


HALVING = nn.MaxPool2d(2, ceil_mode=True)
ACTIVE = ((1, 1), True, "pool")
PLAIN = ((1, 1), False, "pool")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([conv(), nn.BatchNorm2d(CHANNELS)], [PLAIN]),
        ([nn.ReLU(), conv(), nn.BatchNorm2d(CHANNELS, affine=False)], [ACTIVE]),
        ([nn.ReLU(), conv(), nn.BatchNorm2d(CHANNELS), HALVING], [ACTIVE]),
        ([conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), conv(), nn.BatchNorm2d(CHANNELS)], [PLAIN, ACTIVE]),
        ([nn.ReLU(), projection(), nn.BatchNorm2d(3, affine=False)], [ACTIVE]),
        ([nn.ReLU(), projection(stride=2), nn.BatchNorm2d(3, affine=False)], []),
        ([conv(), nn.ReLU(), nn.BatchNorm2d(CHANNELS)], []),
        ([nn.ReLU(), conv()], []),
        ([conv(bias=True), nn.BatchNorm2d(CHANNELS)], []),
        ([conv(groups=2), nn.BatchNorm2d(CHANNELS)], []),
        ([conv(padding=0), nn.BatchNorm2d(CHANNELS)], []),
        ([conv(), nn.InstanceNorm2d(CHANNELS)], []),
    ],
    ids=str,
)
def test_a_sequence_is_what_its_modules_give(modules, expected, training, calls):
    module = nn.Sequential(*copy.deepcopy(modules)).to(memory_format=torch.channels_last).train(training)
    assert_alike(module, channels=CHANNELS)
    assert calls == expected


@pytest.mark.parametrize("name", ["0", "1"])
def test_hooks_are_called(name, calls):
    module, seen = nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS)), []
    module.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
    run_on_kernels(module, images())
    assert seen == [1]
    assert not calls


def test_norms_that_kernels_cannot_take_run_themselves(calls):
    with pytest.raises(RuntimeError, match="running_mean should contain 16 elements not 3"):
        run_on_kernels(nn.Sequential(conv(), nn.BatchNorm2d(3)), images())
    assert run_on_kernels(nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS)).eval(), images()[:0]).shape[0] == 0
    assert not calls


@pytest.mark.parametrize("candidate", ["nor_conv_3x3", "res_conv_3x3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lone_candidate_is_blended_in_its_last_node(candidate, dtype, calls):
    mixed = MixedOp.named([candidate], CHANNELS, 1).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(mixed.ops[candidate])
    x, gain = images().requires_grad_(), torch.tensor(0.4, requires_grad=True)
    copied = x.detach().clone().requires_grad_(), gain.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        shortcuts = [t.to(dtype) for t in (x, copied[0])]
        y = mixed(x, index=0, gain=gain, shortcut=shortcuts[0])
        expected = torch.lerp(shortcuts[1], plain(copied[0]), copied[1].to(dtype))
    grad = torch.randn_like(expected)
    y.backward(grad)
    expected.backward(grad)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    found = [y, x.grad, gain.grad, *(p.grad for p in mixed.parameters()), *mixed.buffers()]
    wanted = [expected, copied[0].grad, copied[1].grad, *(p.grad for p in plain.parameters()), *plain.buffers()]
    for a, b in zip(found, wanted, strict=True):
        scale = max(1.0, b.double().abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, rtol=tolerance, atol=tolerance)
    assert calls == [*([ACTIVE] if candidate == "res_conv_3x3" else []), ((1, 1), True, "gain", "shortcut")]


def test_a_shortcut_of_another_shape_is_refused():
    mixed = MixedOp.named(["nor_conv_3x3"], CHANNELS, 1)
    with pytest.raises(ValueError, match="shortcut must have the shape of the candidates' outputs"):
        mixed(images(), index=0, gain=torch.tensor(0.5), shortcut=images(4))


def test_where_pytorch_has_the_convolution_the_parts_run_apart(calls):
    wide = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1, bias=False), nn.BatchNorm2d(512))
    x = torch.randn(1, 512, 2, 2)
    assert not has_kernels(x, wide[0].weight, Dense(1, 1, False))
    run_on_kernels(wide, x)
    assert not calls

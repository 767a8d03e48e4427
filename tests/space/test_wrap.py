"""A model of one's own as a space: what is wrapped, with which candidates, and what stays to the bit."""

import copy

import pytest
import torch
from torch import nn

import asose_fast
from asose_fast import MixedOp, wrap, wrappable
from asose_fast.data.torchvision_compat import import_torchvision
from asose_fast.space.custom import CustomNetwork

SHAPE = (2, 3, 8, 8)


class Block(nn.Module):
    """A residual block as those of torchvision, which change their sums in place."""

    def __init__(self, channels, out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        projects = stride > 1 or channels != out
        self.downsample = nn.Conv2d(channels, out, 1, stride, bias=False) if projects else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.layer1, self.layer2 = Block(8, 8), Block(8, 12, 2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))))


def make(kind=ResNet):
    torch.manual_seed(0)
    model = kind()
    model(torch.randn(4, 3, 8, 8))  # running statistics
    return model


def require_same(model, space, x):
    """On the path of the originals, and what is derived from it, the space is the model."""
    network = CustomNetwork(space)
    path = [columns[0] for columns in network.columns]
    assert all(next(iter(op.ops)) == "original" for op in network.mixed.values())
    derived = network.derive(path).model

    def outputs(module, training, **choice):
        torch.manual_seed(1)  # of a dropout
        return copy.deepcopy(module).train(training)(x, **choice)

    for training in (False, True):
        expected = outputs(model, training)
        assert torch.equal(outputs(network, training, path=path), expected)
        assert torch.equal(outputs(derived, training), expected)
    assert type(derived) is type(space) is type(model)
    assert list(derived.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in derived.state_dict().items())


def test_what_is_wrapped_and_why_the_rest_is_not():
    found = wrappable(make(), SHAPE)
    assert {name: (place.kind, place.candidates) for name, place in found.places.items()} == {
        "stem.0": ("3x3, 3 -> 8", ("original", "smaller", "separable", "bottleneck")),
        "layer1.conv1": ("3x3, 8 -> 8", ("original", "smaller", "separable", "grouped", "bottleneck", "identity")),
        "layer1.conv2": ("3x3, 8 -> 8", ("original", "smaller", "separable", "grouped", "bottleneck", "identity")),
        "layer2.conv1": ("3x3, 8 -> 12, stride 2", ("original", "smaller", "separable", "grouped", "bottleneck")),
        "layer2.conv2": ("3x3, 12 -> 12", ("original", "smaller", "separable", "grouped", "bottleneck", "identity")),
    }
    assert found.left == {
        "layer2.downsample": "1x1, 8 -> 12, stride 2: its kernel is 1",
        "head.2": "Linear: no convolution",
    }
    assert found.parameters == sum(p.numel() for p in ResNet().parameters())
    convolutions = 64 * 9 * 8 * (3 + 8 + 8) + 16 * 12 * (9 * 8 + 9 * 12 + 8)
    assert found.flops == 2 * (convolutions + 12 * 2)
    lines = str(found).splitlines()
    assert lines[0] == f"5 choices in {found.parameters:,} parameters and {found.flops:,} FLOPs an example"
    assert "  layer2.conv1: 3x3, 8 -> 12, stride 2: original, smaller, separable, grouped, bottleneck" in lines
    assert lines[-2:] == [
        "  layer2.downsample: 1x1, 8 -> 12, stride 2: its kernel is 1",
        "  head.2: Linear: no convolution",
    ]


@pytest.mark.parametrize("options", [{}, {"only": "*"}, {"blocks": "layer?"}, {"candidates": ["grouped"]}])
def test_the_originals_are_the_model_to_the_bit(options):
    model = make().eval()
    model.layer1.bn1.train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    space = wrap(model, torch.randn(SHAPE, generator=torch.Generator()), **options)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in (*model.modules(), *space.modules()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, module in space.named_modules() if module.training and "bn1" in name]
    held = {p.data_ptr() for p in model.parameters()}
    assert held.isdisjoint(p.data_ptr() for p in space.parameters())
    require_same(model, space, torch.randn(4, 3, 8, 8))


def test_a_resnet_of_torchvision():
    torch.manual_seed(0)
    model = import_torchvision().models.resnet18()
    space = wrap(model, (1, 3, 32, 32), candidates=["smaller", "grouped", "identity"], skip="layer4.*")
    assert sum(isinstance(module, MixedOp) for module in space.modules()) == 13
    require_same(model, space, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("name", "choices"), [("mobilenet_v2", 52), ("shufflenet_v2_x1_0", 56)])
def test_models_of_torchvision_whose_flops_are_in_1x1_convolutions(name, choices):
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, name)(num_classes=10)
    space = wrap(model, (1, 3, 32, 32), only="*")
    assert sum(isinstance(module, MixedOp) for module in space.modules()) == choices
    require_same(model, space, torch.randn(2, 3, 32, 32))


def test_every_candidate_runs_on_every_example():
    space = wrap(make(), SHAPE)
    for op in space.modules():
        if isinstance(op, MixedOp):
            op.plan = asose_fast.space.mixed.Plan(weights=torch.ones(len(op.ops)) / len(op.ops))
    space(torch.randn(2, 3, 11, 9)).sum().backward()  # relus work in place behind mixed operations
    assert all(p.grad is not None for p in space.parameters())


def test_patterns_choose():
    model = make()
    assert list(wrappable(model, SHAPE, only=["layer2.*"]).places) == [
        "layer2.conv1",
        "layer2.conv2",
        "layer2.downsample",
    ]
    found = wrappable(model, SHAPE, only="layer?.conv1", skip="layer1.*")
    assert list(found.places) == ["layer2.conv1"]
    assert found.left["layer1.conv1"] == "3x3, 8 -> 8: left out by skip"
    assert found.left["layer1.conv2"] == "3x3, 8 -> 8: left out by skip"
    assert found.left["stem.0"] == "3x3, 3 -> 8: left out by only"


def test_a_block_is_a_choice_as_a_whole():
    found = wrappable(make(), SHAPE, blocks="layer?", skip="stem.0")
    assert found.places["layer1"].candidates == ("original", "identity")
    assert list(found.places) == ["layer1", "layer2.conv1", "layer2.conv2"]
    assert found.left["layer1.conv1"] == "3x3, 8 -> 8: within layer1"
    assert found.left["layer2"] == "Block: its output has another shape than its input"


def test_the_identity_is_no_candidate_where_outputs_are_changed_in_place():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3, padding=1))
    places = wrappable(model, SHAPE).places
    assert "identity" not in places["0"].candidates
    assert "identity" in places["2"].candidates


def test_the_identity_is_no_candidate_of_a_stride_that_one_pixel_hides():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1))
    assert "identity" not in wrappable(model, (1, 3, 1, 1)).places["0"].candidates


def wider(conv):
    return nn.Conv2d(conv.in_channels, conv.out_channels, 5, conv.stride, 2) if conv.in_channels > 3 else None


def test_candidates_of_ones_own():
    space = wrap(make().eval(), SHAPE, candidates=["grouped", wider])
    assert isinstance(space.stem[0], nn.Conv2d)  # neither fits
    assert list(space.layer1.conv1.ops) == ["original", "grouped", "wider"]
    assert not space.layer1.conv1.ops["wider"].training
    assert space.layer1.conv1.logits == {"original": 1.0}


class Odd(nn.Module):
    """Convolutions that nothing can stand in for, and one that can be chosen."""

    def __init__(self):
        super().__init__()
        conv = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)]
        self.good, self.twice, self.unused, self.named, self.first, self.second, self.hooked, self.normed = conv
        self.again = self.named
        self.second.weight = self.first.weight
        self.hooked.register_forward_hook(lambda *_: None)
        self.normed = nn.utils.parametrizations.weight_norm(self.normed)
        self.functional = nn.Conv2d(3, 3, 3, padding=1)
        self.keyword = nn.Conv2d(3, 3, 3, padding=1)
        self.up = nn.ConvTranspose2d(3, 3, 3, padding=1)

    def forward(self, x):
        x = self.twice(self.twice(self.good(x)))
        x = self.named(self.first(self.second(self.hooked(self.normed(x)))))
        x = nn.functional.conv2d(x, self.functional.weight, padding=1)
        return self.up(self.keyword(input=x))


def test_what_cannot_be_replaced_says_why():
    found = wrappable(make(Odd), SHAPE)
    assert list(found.places) == ["good"]
    reasons = {name: why.partition(": ")[2] for name, why in found.left.items() if "parametrizations" not in name}
    assert reasons == {
        "twice": "it runs 2 times",
        "unused": "it does not run",
        "named": "it has 2 names in the model",
        "first": "it shares parameters with another module",
        "second": "it shares parameters with another module",
        "hooked": "it has hooks, or methods of its own",
        "normed": "it has hooks, or methods of its own",
        "functional": "it does not run",
        "keyword": "it does not map one tensor to one tensor",
        "up": "no convolution",
    }


class Reading(nn.Module):
    """Reads the weights of what it calls, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.other(self.conv(x)) * self.conv.weight.mean()


class Behind(Reading):
    """Calls a module by a name that is none of its submodules'."""

    def __init__(self):
        super().__init__()
        self.behind = [self.conv]

    def forward(self, x):
        return self.other(self.behind[0](x))


def test_models_that_do_more_than_to_call_are_refused():
    with pytest.raises(ValueError, match=r"'MixedOp' object has no attribute 'weight': leave out by skip"):
        wrap(Reading(), SHAPE)
    assert isinstance(wrap(Reading(), SHAPE, skip="conv").other, MixedOp)
    with pytest.raises(ValueError, match="does not run the mixed operation in place of 'conv': leave out by skip"):
        wrap(Behind(), SHAPE)


@pytest.mark.parametrize(
    ("model", "example", "options", "error", "message"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), SHAPE, {}, ValueError, "0.weight of the model has no shape"),
        (lambda: nn.Sequential(MixedOp({"a": nn.ReLU()})), SHAPE, {}, ValueError, "mixed operation already, '0'"),
        (ResNet, (2, 4, 8, 8), {}, ValueError, r"cannot run on the example \(\(2, 4, 8, 8\)\): .*channels"),
        (ResNet, "photo", {}, ValueError, r"cannot run on the example \(str\)"),
        (ResNet, SHAPE, {"candidates": ["seperable"]}, ValueError, "'seperable': did you mean 'separable'"),
        (ResNet, SHAPE, {"candidates": "separable"}, TypeError, "candidates must be a list of names and functions"),
        (ResNet, SHAPE, {"candidates": [3]}, TypeError, "a candidate is a name or a function, got int"),
        (ResNet, SHAPE, {"candidates": [lambda conv: None]}, ValueError, "needs a name: write it with def"),
        (ResNet, SHAPE, {"candidates": ["grouped", "grouped"]}, ValueError, "two candidates are called 'grouped'"),
        (ResNet, SHAPE, {"only": "layer1.con1"}, ValueError, "only: no module .* mean 'layer1.conv1'"),
        (ResNet, SHAPE, {"skip": ["stem.0", "zz*"]}, ValueError, "skip: no module of the model has the name 'zz.'"),
        (lambda: ResNet, SHAPE, {}, TypeError, "model must be a module, got type"),
    ],
)  # fmt: skip
def test_errors(model, example, options, error, message):
    for function in (wrap, wrappable):
        with pytest.raises(error, match=message):
            function(model(), example, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [(nn.ReLU(), "it has no convolution"), (nn.Sequential(nn.Linear(8, 8)), "0: Linear: no convolution")],
)
def test_a_model_without_a_choice(model, message):
    assert str(wrappable(model, SHAPE)).startswith("0 choices in ")
    with pytest.raises(ValueError, match=rf"nothing of the model can be wrapped \({message}\)"):
        wrap(model, SHAPE)


def itself(conv):
    return conv


def nothing_of_use(conv):
    return 3


@pytest.mark.parametrize(("own", "got"), [(itself, "the convolution itself"), (nothing_of_use, "int")])
def test_a_function_must_return_a_new_module(own, got):
    with pytest.raises(
        TypeError, match=f"candidate {own.__name__} must return a new module or None for 'stem.0', got {got}"
    ):
        wrap(make(), SHAPE, candidates=[own])


def test_examples_of_any_form():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1, dtype=torch.float64)

        def forward(self, batch):
            return self.conv(batch["signal"])

    found = wrappable(Named(), {"signal": torch.zeros(5, 4, 7, dtype=torch.float64)})
    assert found.places["conv"].kind == "3, 4 -> 4"
    assert found.flops == 2 * 7 * 4 * 4 * 3
    assert list(wrappable(nn.Sequential(nn.Conv1d(4, 4, 3, dtype=torch.float64)), torch.Size((1, 4, 7))).places) == [
        "0"
    ]

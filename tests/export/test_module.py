"""The generated model.py: the same function, state and gradients as the derived network, in readable plain PyTorch."""

import ast
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asose_fast.export import ExportError, module
from asose_fast.space import BlockSpec, Network
from asose_fast.space.candidates import KNOWN
from asose_fast.space.genotype import Genotype
from tests.export.networks import NETWORKS, difference, half_of_all, make_derived, stages_of_all
from tests.helpers import FEW, OF_BLOCKS, ROOT, make_network


def genotype_of(network, **changes):
    spec = network.spec
    values = {"classes": [str(k) for k in range(spec.classes)], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    values.update(changes)
    return Genotype(spec, *(tuple(values[key]) for key in ("classes", "mean", "std")), values.get("image_size"))


def source_of(network, with_normalization=False, **changes):
    return module.encode(genotype_of(network, **changes), network, with_normalization)[module.CODE].decode()


def plain(network, with_normalization=False):
    return module.decode(module.encode(genotype_of(network), network, with_normalization))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", KNOWN)
def test_every_candidate_is_the_same_function(name, stride):
    for channels, out in ((1, 1), (3, 3), (5, 7), (8, 3)):
        original = make_derived([BlockSpec((name,), channels, out, stride)])
        exported = plain(original)
        assert not exported.training
        for size in ((8, 8), (9, 9), (7, 10), (1, 1), (2, 1)):
            x = torch.randn(3, 3, *size)
            with torch.no_grad():
                assert difference(exported(x), original(x)) <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_move_both_ways_and_train_alike(name):
    original, x = NETWORKS[name](), torch.randn(4, 3, 33, 34)
    exported = plain(original)
    assert list(exported.state_dict()) == list(original.state_dict())
    assert [name for name, _ in exported.named_parameters()] == [name for name, _ in original.named_parameters()]
    for network in (original, exported):
        network.double().train()
        network(x.double()).square().sum().backward()
    for ours, theirs in zip(original.parameters(), exported.parameters(), strict=True):
        expected = ours.grad if ours.grad is not None else torch.zeros_like(ours)
        torch.testing.assert_close(theirs.grad if theirs.grad is not None else torch.zeros_like(theirs), expected)
    for ours, theirs in zip(original.buffers(), exported.buffers(), strict=True):
        torch.testing.assert_close(theirs, ours)
    again = Network(original.spec).double()
    again.load_state_dict(exported.state_dict())
    torch.testing.assert_close(again.eval()(x.double()), original.eval()(x.double()))


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_a_grown_network(space):
    supernet = make_network(FEW, depth=4, channels=5, space=space)
    for position in (4, 1, 3):
        torch.nn.init.constant_(supernet.deepen(position).gain, 0.3)
    original = supernet.derive([3, 1, 2, 3, 0, 3, 1]).eval()
    exported, x = plain(original), torch.randn(2, 3, 13, 13)
    assert len(exported.blocks) == 7
    with torch.no_grad():
        assert difference(exported(x), original(x)) <= 1e-5


def test_halves_of_any_widths():
    original = make_derived([BlockSpec(("skip_connect",), 5, 5, 2)])
    reduction = original.blocks[0].mixed.ops["skip_connect"]
    reduction.even, reduction.odd = (torch.nn.Conv2d(5, n, 1, bias=False) for n in (4, 1))
    assert difference(plain(original)(x := torch.randn(2, 3, 9, 8)), original(x)) <= 1e-5


def test_a_projection_between_equal_widths():
    original = make_derived([BlockSpec(("none",), 4, 4)])
    original.blocks[0].project = torch.nn.Sequential(
        torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1, bias=False), torch.nn.BatchNorm2d(4, affine=False)
    ).eval()
    assert difference(plain(original)(x := torch.randn(2, 3, 9, 8)), original(x)) <= 1e-5


def test_normalization_is_what_genotypes_say_and_no_state():
    original, images = make_derived([BlockSpec(("max_pool_3x3",), 3, 3)]), torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1)
    built_in = plain(original, with_normalization=True)
    assert list(built_in.state_dict()) == list(original.state_dict())
    assert difference(built_in(images), original((images - mean) / std)) <= 1e-5
    assert difference(plain(original)(images), original(images)) <= 1e-5


def test_runs_under_autocast_and_in_other_memory_formats():
    exported, x = plain(half_of_all(0)), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = exported(x)
        assert difference(exported(x.contiguous(memory_format=torch.channels_last)), expected) <= 1e-5
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert difference(exported(x).float(), expected) < 0.1


def test_needs_torch_alone_and_holds_no_part_that_it_does_not_use():
    stages = [source_of(stages_of_all()), source_of(make_derived([BlockSpec(("none",), 4, 4)], space="stages"))]
    assert ["class ConvBlock" in source for source in stages] == [True, False]
    for names in (("none", "skip_connect"), ("sep_conv_3x3", "max_pool_3x3"), ("dil_conv_5x5", "conv_7x1_1x7")):
        source = source_of(make_derived([BlockSpec((name,), 4, 4, k + 1) for k, name in enumerate(names)]))
        tree = ast.parse(source)
        imported = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert imported == {"collections", "pathlib", "torch"}
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
        assert classes - called <= {"Normalize"}


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed: pip install ruff")
def test_is_as_ruff_would_have_it(tmp_path):
    names = [[f"a class of images, number {k}" for k in range(5)], list("abcde"), ["x" * 14] * 5, ["x" * 9] * 5]
    for (k, classes), normalized in itertools.product(enumerate(names), (False, True)):
        source = source_of(half_of_all(k % 2), normalized, classes=classes, image_size=32)
        (tmp_path / f"model_{k}_{normalized}.py").write_text(source)
    wide = make_derived([BlockSpec(("skip_connect",), 1024, 2048, 2)])
    (tmp_path / "wide.py").write_text(source_of(wide))
    (tmp_path / "stages.py").write_text(source_of(stages_of_all()))
    ruff = [sys.executable, "-m", "ruff"]
    for options in (["--isolated"], ["--config", str(ROOT / "pyproject.toml")]):
        for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
            done = subprocess.run([*ruff, *command, *options, str(tmp_path)], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def test_any_names_of_classes():
    names = ('say "x"', "it's", "both ' and \"", "back\\slash", "new\nline", "ä Ω 猫", "{braces}", '"""', "", "\udcff")
    original = make_derived([BlockSpec(("none",), 3, 3)], classes=len(names))
    scope = {"__file__": str(Path("model.py"))}
    exec(source_of(original, classes=names), scope)
    assert scope["CLASSES"] == names


def test_a_candidate_of_ones_own_is_refused(monkeypatch):
    monkeypatch.setitem(KNOWN, "blur", lambda channels, stride: torch.nn.AvgPool2d(3, stride, 1))
    original = make_derived([BlockSpec(("blur",), 3, 3)])
    with pytest.raises(ExportError, match="cannot export the operation 'blur': known are none, avg_pool_3x3"):
        source_of(original)

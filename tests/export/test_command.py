"""`python -m asose_fast.export`: what it prints and refuses, and that a refusal leaves no file."""

import importlib.util
import json
import shutil

import pytest
import torch

import asose_fast
from asose_fast import export as package
from asose_fast.export import __main__ as command
from asose_fast.export import check, module
from asose_fast.space import BlockSpec
from asose_fast.train import main as train
from tests.export.networks import difference, make_derived, make_run
from tests.helpers import options, python


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder; tests put their files elsewhere."""
    torch.manual_seed(0)
    blocks = [BlockSpec(("sep_conv_3x3",), 4, 4), BlockSpec(("avg_pool_3x3",), 4, 4)]
    return make_run(tmp_path_factory.mktemp("export") / "run", make_derived(blocks), image_size=8)


def refused(capsys, *arguments):
    assert command.main(list(map(str, arguments))) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert not said.out
    return said.err


def test_a_run_is_exported(run, tmp_path, capsys):
    out = tmp_path / "deep" / "er" / "net.py"
    assert command.main([str(run), "--format", "module", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out} and {out.with_suffix('.pt')}" in said
    assert "largest difference from the original: " in said
    assert "(bound 1e-05; random batches of 1, 2 and 7)" in said
    assert {p.name for p in out.parent.iterdir()} == {"net.py", "net.pt"}
    spec = importlib.util.spec_from_file_location("net", out)
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    x = torch.randn(2, 3, 8, 8)
    assert difference(net.load()(x), asose_fast.load(run)(x)) <= 1e-5


def test_a_trained_and_grown_run_is_exported_by_the_command(tmp_path, capsys):
    folder = tmp_path / "run"
    grows = options(growth_epochs=3, growth_patience=1, growth_threshold=100, depth=2, max_depth=4)
    assert train([*grows, "--out", str(folder)]) == 0
    network = asose_fast.load(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert "deeper" in [event["kind"] for event in summary["growth"]]
    assert len(network.blocks) == summary["depth"]
    assert summary["depth"] + len(summary["left_out"]) > 2
    done = python("-m", "asose_fast.export", str(folder), "--format", "module", "--with-normalization")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    exported = module.decode({suffix: (folder / f"model{suffix}").read_bytes() for suffix in (".py", ".pt")})
    genotype = asose_fast.store.derived.load_genotype(folder)
    assert genotype.image_size == 8
    images = torch.rand(5, 1, 8, 8)
    normalized = (images - genotype.mean[0]) / genotype.std[0]
    assert difference(exported(images), network(normalized)) <= 1e-5


@pytest.mark.parametrize("format", ["module", "pt2"])
def test_another_function_is_refused_and_leaves_no_file(run, tmp_path, capsys, monkeypatch, format):
    def decode(files):
        network = right(files)
        with torch.no_grad():
            network.blocks[1].gain += 1e-3
        return network

    right = module.decode
    monkeypatch.setattr(module, "decode", decode)
    suffix = {"module": ".py", "pt2": ".pt2"}[format]
    before = tmp_path / f"model{suffix}"
    before.write_text("as it was")
    error = refused(capsys, run, "--format", format, "--out", before, "--overwrite")
    assert "the exported network is not the original: for a batch of 1, scores differ by " in error
    assert [p.name for p in tmp_path.iterdir()] == [before.name]
    assert before.read_text() == "as it was"


def test_scores_that_are_no_numbers_are_refused(tmp_path, capsys):
    network = make_derived([BlockSpec(("none",), 4, 4)])
    torch.nn.init.constant_(network.head[4].bias, float("nan"))
    run = make_run(tmp_path / "run", network)
    assert "scores differ by nan" in refused(capsys, run, "--format", "module")
    assert not (run / "model.py").exists()


def test_scores_of_another_shape_are_refused(run):
    genotype = asose_fast.store.derived.load_genotype(run)
    with pytest.raises(package.ExportError, match=r"the exported network gives \(1, 2\), the original \(1, 5\)"):
        check.largest_difference(asose_fast.load(run), lambda x: torch.zeros(len(x), 2), genotype, False)


def test_a_missing_package_is_named_before_any_work(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None if name.startswith("onnx") else object())
    monkeypatch.setattr(package, "load_genotype", lambda run: pytest.fail("work was begun"))
    assert refused(capsys, run, "--format", "onnx", "--out", tmp_path / "a.onnx") == (
        "error: format onnx needs onnx, onnxscript, onnxruntime: pip install onnx onnxscript onnxruntime\n"
    )


def test_wrong_arguments_are_refused(run, tmp_path, capsys):
    assert "the file of format pt2 must end in .pt2, got" in refused(
        capsys, run, "--format", "pt2", "--out", tmp_path / "a.onnx"
    )
    assert f"{tmp_path} holds no finished run: there is no genotype.json" in refused(
        capsys, tmp_path, "--format", "module"
    )
    with pytest.raises(ValueError, match="unknown format 'tflite': choose from module, pt2, onnx"):
        package.export(run, "tflite")
    with pytest.raises(SystemExit) as end:
        command.main([str(run)])
    assert end.value.code == 2


def test_a_damaged_run_is_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"nothing")
    error = refused(capsys, tmp_path / "run", "--format", "module")
    assert "model.safetensors is damaged, or not what genotype.json beside it was written with" in error
    assert not (tmp_path / "run" / "model.py").exists()


def test_a_file_that_cannot_be_written_is_said(run, tmp_path, capsys):
    (tmp_path / "model.pt").mkdir()
    assert f"cannot write {tmp_path / 'model.pt'}" in refused(
        capsys, run, "--format", "module", "--out", tmp_path / "model.py"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]

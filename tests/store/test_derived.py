"""`asose_fast.load`: the derived network of a run, and a reason where there is none or something is wrong with it."""

import json

import pytest
import safetensors.torch
import torch

import asose_fast
from asose_fast.engine import result
from asose_fast.space import BlockSpec, Network, NetworkSpec
from asose_fast.store import derived
from tests.helpers import python

SPEC = NetworkSpec(3, 5, 4, (BlockSpec(("sep_conv_3x3",), 4, 6, 2), BlockSpec(("skip_connect",), 6, 6)))


@pytest.fixture
def run(tmp_path):
    derived.save(tmp_path, Network(SPEC), classes="abcde", mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1), image_size=8)
    return tmp_path


def rewrite(run, change, digest=None):
    """Changes the weights, under a genotype that takes them for its own or does not look."""
    path, genotype = run / "model.safetensors", run / "genotype.json"
    tensors = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save(change(tensors)))
    values = json.loads(genotype.read_text())
    genotype.write_text(json.dumps({**values, "weights_sha256": digest}))


def refused(run, error=ValueError):
    with pytest.raises(error) as caught:
        asose_fast.load(run)
    return str(caught.value)


def test_what_was_saved_is_loaded(tmp_path):
    network, x = Network(SPEC), torch.randn(2, 3, 8, 8)
    network(x)  # statistics
    values = {"classes": "abcde", "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1), "image_size": 8}
    derived.save(tmp_path, network, **values)
    loaded = asose_fast.load(str(tmp_path))
    assert not loaded.training
    assert loaded.spec == SPEC
    assert torch.equal(loaded(x), network.eval()(x))
    assert derived.load_genotype(tmp_path).mean == (0.5, 0.4, 0.3)
    assert result.load is asose_fast.load


def test_a_folder_without_a_run(tmp_path):
    assert refused(tmp_path / "no", FileNotFoundError) == (
        f"{tmp_path / 'no'} holds no finished run: there is no genotype.json"
    )
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    assert refused(tmp_path, FileNotFoundError).endswith(
        f"it has not ended: python -m asose_fast.train --resume {tmp_path}"
    )


def test_missing_weights(run):
    (run / "model.safetensors").unlink()
    assert refused(run, FileNotFoundError) == f"{run} holds no finished run: there is no model.safetensors"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"pickle", b"[" * 100_000])
def test_a_damaged_genotype(run, content):
    (run / "genotype.json").write_bytes(content)
    assert refused(run).startswith(f"{run / 'genotype.json'} is damaged or no JSON (")


def test_a_genotype_with_a_candidate_of_another_release(run):
    path = run / "genotype.json"
    path.write_text(path.read_text().replace("sep_conv_3x3", "sep_conv_9x9"))
    assert refused(run).startswith(f"{path} cannot be built here: block 0 has the candidate 'sep_conv_9x9', which is")


def test_damaged_weights_are_noticed_though_they_can_be_read(run):
    path = run / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refused(run) == f"{path} is damaged, or not what genotype.json beside it was written with"


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_under_a_genotype_without_digest(run, keep):
    rewrite(run, lambda tensors: tensors)
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(run).startswith(f"{path} is damaged or no safetensors file (")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "stem.0.weight"}, "stem.0.weight is missing"),
        (lambda t: {**t, "stem.9.weight": torch.zeros(1)}, "stem.9.weight is unknown"),
        (
            lambda t: {**t, "head.4.bias": torch.zeros(6)},
            "head.4.bias should be (5,) torch.float32, is (6,) torch.float32",
        ),
        (
            lambda t: {**t, "head.4.bias": torch.zeros(5, dtype=torch.int32)},
            "head.4.bias should be (5,) torch.float32, is (5,) torch.int32",
        ),
    ],
)
def test_weights_of_another_network(run, change, message):
    rewrite(run, change)
    path = run / "model.safetensors"
    assert refused(run) == f"{path} is not of the network in genotype.json beside it: {message}"


@pytest.mark.parametrize("channels", [10**9, 10**15, 10**30])
def test_a_genotype_of_an_enormous_network(run, channels):
    path = run / "genotype.json"
    values = json.loads(path.read_text())
    values["network"]["blocks"][-1]["out_channels"] = channels
    path.write_text(json.dumps(values))
    assert refused(run).split(" is ")[0] in (str(run / "model.safetensors"), str(path))


def test_importing_the_package_imports_no_scikit_learn_and_no_torchvision():
    unwanted = ("sklearn", "torchvision")
    done = python("-c", f"import asose_fast, sys; print([name for name in {unwanted} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr

"""Blocks that compute nothing are left out of what is written and exported, and of what is counted."""

import itertools
import json

import pytest
import torch

import asose_fast
from asose_fast import retrain
from asose_fast.engine.alpha.budget import path_cost
from asose_fast.engine.growth.control import describe
from asose_fast.engine.result import write_result
from asose_fast.export import export
from asose_fast.export.errors import ExportError
from asose_fast.space import BlockSpec, Network
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.prune import left_out, pruned, pruned_spec
from asose_fast.store.derived import load_genotype
from tests.export.networks import make_derived, make_run
from tests.helpers import FEW, OF_BLOCKS, make_network, make_trainer, options

SKIP = BlockSpec(("skip_connect",), 5, 5)
BLOCKS = (
    SKIP,
    BlockSpec(("sep_conv_3x3",), 5, 5),
    SKIP,
    BlockSpec(("skip_connect",), 5, 5, 2),  # a factorized reduction
    BlockSpec(("none",), 5, 5),  # scales by 1 - gain
    BlockSpec(("skip_connect",), 5, 6),  # projects
    BlockSpec(("skip_connect",), 6, 6),
)
KEPT = [1, 3, 4, 5]
IMAGES = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_the_output_is_the_same_to_the_bit():
    network = make_derived(BLOCKS)
    expected, smaller = network(IMAGES), pruned(network)
    assert left_out(network.spec) == [0, 2, 6]
    assert smaller.spec == pruned_spec(network.spec)
    assert smaller.operations == tuple(BLOCKS[i].candidates[0] for i in KEPT)
    assert torch.equal(smaller(IMAGES), expected)
    assert [id(block) for block in smaller.blocks] == [id(network.blocks[i]) for i in KEPT]
    assert sum(p.numel() for p in smaller.parameters()) == sum(p.numel() for p in network.parameters()) - 3
    assert not smaller.training
    assert pruned(smaller) is smaller
    assert network.depth == len(BLOCKS)  # as it was


def test_one_block_stays():
    network = make_derived([SKIP, SKIP])
    assert left_out(network.spec) == [1]
    assert torch.equal(pruned(network)(IMAGES), network(IMAGES))
    pruned(network).spec.check()


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_what_a_path_is_counted_to_cost_is_what_is_left_of_it(space):
    network = make_network(FEW, depth=4, space=space)
    costs = candidate_costs(network.spec, 9)
    for path in itertools.product(range(len(FEW)), repeat=4):
        assert path_cost(list(path), costs) == cost_of(pruned_spec(network.derive(path).spec), 9)


def test_a_network_whose_blocks_may_all_go_costs_no_more_than_it_is_counted():
    spec = make_network(("skip_connect", "sep_conv_3x3"), depth=1).spec.deeper(1)
    costs, network = candidate_costs(spec, 9), Network(spec)
    for path in itertools.product(range(2), repeat=2):
        exact = cost_of(pruned_spec(network.derive(path).spec), 9)
        counted = path_cost(list(path), costs)
        assert counted.flops == exact.flops
        assert counted.parameters - exact.parameters == (path == (0, 1))


def test_stages_keep_their_convolutions():
    network = make_network(("skip_connect",), depth=4, space="stages").derive([0] * 4).eval()
    smaller = pruned(network)
    assert smaller.depth == 2
    assert all(block.project for block in smaller.evolvable_blocks())
    assert torch.equal(smaller(IMAGES), network(IMAGES))


@pytest.fixture
def old(tmp_path):
    """A folder of before there was pruning."""
    return make_run(tmp_path / "old", make_derived(BLOCKS), image_size=9)


def test_an_old_folder_loads_as_it_is(old):
    network = asose_fast.load(old)
    assert network.depth == len(BLOCKS)
    assert torch.equal(network(IMAGES), make_pruned(network)(IMAGES))


def make_pruned(network):
    smaller = pruned(network)
    assert smaller.depth == len(KEPT)
    return smaller


def test_an_old_folder_is_exported_without_them(old, tmp_path):
    exported = export(old, "module", tmp_path / "model.py")
    code = (tmp_path / "model.py").read_text()
    assert exported.difference <= 1e-5
    assert f"It has {len(KEPT)} blocks" in code
    assert code.count('Block("skip_connect", nn.Identity()') == 0
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(state) == list(make_pruned(asose_fast.load(old)).state_dict())


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_traced_formats_say_the_operations_that_are_left(old, tmp_path, form):
    try:
        (path,) = export(old, form, tmp_path / f"model.{form}").paths
    except ExportError as error:
        pytest.skip(str(error))
    content = path.read_bytes()
    assert b"sep_conv_3x3" in content
    if form == "pt2":
        program = torch.export.load(path)
        assert {name.split(".")[1] for name in program.state_dict if name.startswith("blocks.")} == set("0123")


def test_a_run_writes_what_is_left(tmp_path):
    trainer = make_trainer(tmp_path, depth=3, candidates=("skip_connect",), epochs=4)
    trainer.run()
    found = trainer.state.best_network()
    summary = write_result(trainer.state, trainer.state.data, tmp_path)
    assert found.depth == 3  # a block for each row of alpha
    assert summary["left_out"] == left_out(found.spec) == [0, 2]
    assert summary["operations"] == ["skip_connect"]
    assert summary["depth"] == 1
    written = load_genotype(tmp_path)
    assert written.network == pruned_spec(found.spec)
    assert cost_of(written.network, 8).parameters == summary["parameters"]
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(asose_fast.load(tmp_path)(x), found(x))


def test_a_training_from_scratch_goes_on_with_an_old_architecture_and_writes_what_is_left(tmp_path, capsys):
    blocks = [BlockSpec(("sep_conv_3x3",), 5, 5), SKIP]
    run = make_run(tmp_path / "old", make_derived(blocks, in_channels=1, classes=10), image_size=8)
    data = [word for word in options() if word.split("=")[0] in ("--limit_train", "--limit_test", "--batch_size")]
    command = [str(run), "--dataset=digits", *data, "--out", str(tmp_path / "new"), "--epochs=1"]
    assert retrain.main(command) == 0
    assert json.loads((tmp_path / "new" / "summary.json").read_text())["operations"] == ["sep_conv_3x3"]
    assert asose_fast.load(tmp_path / "new").operations == ("sep_conv_3x3",)
    assert retrain.main(command) == 0  # its checkpoint still fits
    assert "going on after 1 of 1 epochs" in capsys.readouterr().out


def test_growth_says_that_a_block_would_be_left_out():
    event = {"kind": "deeper", "position": 2, "depth": 7}
    assert describe(event) == ["grown deeper: block 3 is new, depth 7"]  # of an older record
    assert describe({**event, "begins_as": "sep_conv_3x3"}) == describe(event)
    (line,) = describe({**event, "begins_as": "skip_connect"})
    assert line.endswith("; skip_connect leads in it, and where it stays so the block is left out in the end")

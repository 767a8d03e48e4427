"""The section of a comparison, and the line that says how to make one."""

import json

import pytest

from asose_fast.engine.comparison.networks import BANDS
from asose_fast.engine.comparison.record import Comparison, load
from asose_fast.engine.comparison.trained import Trained
from asose_fast.report import page, svg
from asose_fast.report.run import read
from asose_fast.space.prune import pruned_spec
from asose_fast.store.derived import load_genotype
from tests.export.networks import make_derived, make_run
from tests.helpers import make_config
from tests.report.runs import Page, records, write_run
from tests.report.test_page import HOSTILE, SUMMARY, loads

COMMAND = "asose-fast compare"


@pytest.fixture
def folder(tmp_path):
    """A finished run of two blocks, of which the first computes nothing."""
    from asose_fast.space import BlockSpec

    config = make_config()
    run = write_run(tmp_path / "a run", records(config), config, **SUMMARY)
    make_run(
        run,
        make_derived([BlockSpec(("skip_connect",), 4, 4), BlockSpec(("sep_conv_3x3",), 4, 8, 2)], 1, 10),
        image_size=8,
    )
    return run


def compared(folder, found=0.9, plain=0.8, others=(0.79, 0.80, 0.81), band=BANDS[0], measured=True):
    """Writes a comparison."""
    network = pruned_spec(load_genotype(folder).network).to_dict()
    names = ["found", "plain", *(f"random-{i + 1}" for i in range(len(others)))]
    accuracies = [accuracy for accuracy in (found, plain, *others) if accuracy is not None]
    costs = (5000, 1_250_000, 1_500_000) if measured else ()
    trained = [Trained(n, network, 1234, 5_670_000, 61.0, a, *costs) for n, a in zip(names, accuracies, strict=False)]
    (folder / "compare").mkdir(exist_ok=True)
    kept = Comparison(
        settings={"epochs": 25, "latency_device": "cpu", "latency_threads": 2, "latency_batch": 16},
        data="digest",
        images=1437,
        test_images=360,
        random=len(others),
        band=band,
        found=network,
        networks=trained,
    )
    kept.save(folder / "compare")


def readable(folder):
    try:
        return bool(load(folder / "compare"))
    except ValueError:
        return False


def shown(folder):
    return Page(page.render(read(folder)))


def test_without_one_the_page_of_a_finished_run_ends_with_the_command(folder):
    found = shown(folder)
    assert f"Was the search worth it? {COMMAND} 'a run' trains a plain network of this size" in found.text
    assert found.text.endswith("and says so here.")
    (folder / "summary.json").unlink()
    assert COMMAND not in shown(folder).text


def test_cells_and_networks_of_the_users_own_have_no_such_line(folder):
    genotype = json.loads((folder / "genotype.json").read_text())
    (folder / "genotype.json").write_text(json.dumps({**genotype, "network": {"kind": "nasbench201"}}))
    assert COMMAND not in shown(folder).text
    (folder / "genotype.json").unlink()
    assert COMMAND not in shown(folder).text


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ({}, "Found network 90.0 %, plain network of its size (sep_conv_3x3) 80.0 %: better by 10.0 points"),
        ({}, "random networks of its size 80.0 % ± 1.0 (n=3): better by 10.0 points"),
        ({}, "The search was worth it on these images."),
        ({"plain": 0.9}, "The plain network, which needs none, is as good as far as these images tell."),
        ({"plain": 0.99}, "The search was not worth it on these images: the plain network"),
        ({"found": 0.6, "plain": 0.6}, "a random network of this size is better."),
        ({"band": BANDS[1]}, "within 20 % in parameters and 10 % in FLOPs, since too few are within 10 %"),
        ({}, "scratch on 1,437 images for 25 epochs, with the same settings, and measured on 360 test images."),
        ({}, "random-3 81.0 % [76.6, 84.7] 1,234 5.67 5.0 1.25 to 1.5 61 s sep_conv_3x3"),
        ({"measured": False}, f"random-3 81.0 % [76.6, 84.7] 1,234 5.67 {svg.NONE} {svg.NONE} 61 s sep_conv_3x3"),
        ({}, "Latency is of 16 images, cpu, 2 threads"),
    ],
)
def test_a_comparison_has_a_section(folder, accuracies, said):
    compared(folder, **accuracies)
    found = shown(folder)
    assert said in found.text
    assert COMMAND not in found.text
    assert loads(found) == []


def test_one_that_was_interrupted_says_how_much_is_missing(folder):
    compared(folder, plain=None, others=(0.8, 0.8, 0.8))
    values = json.loads((folder / "compare" / "compare.json").read_text())
    (folder / "compare" / "compare.json").write_text(json.dumps({**values, "networks": values["networks"][:2]}))
    text = shown(folder).text
    assert "3 of 5 networks are not trained yet. The same command goes on." in text
    assert "worth it on these images" not in text


def test_one_of_another_network_is_not_shown(folder):
    compared(folder)
    values = json.loads((folder / "compare" / "compare.json").read_text())
    other = {**values["found"], "stem_channels": 5}
    (folder / "compare" / "compare.json").write_text(json.dumps({**values, "found": other}))
    text = shown(folder).text
    assert "worth it on these images" not in text
    assert COMMAND in text


WRONG = [None, "x", -1, 0, 1e300, True, [], [None], {"a": 1}, HOSTILE]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:9])
def test_a_damaged_one_is_named_and_the_rest_is_shown(folder, value):
    compared(folder)
    path = folder / "compare" / "compare.json"
    values = json.loads(path.read_text())
    for damaged in (
        value,
        *({**values, name: value} for name in values if name != "says"),
        *({**values, "networks": [{**values["networks"][0], name: value}]} for name in values["networks"][0]),
        {**values, "band": {"parameters": 0.1, "flops": value}},
        {**values, "settings": {"epochs": value}},
    ):
        path.write_text(json.dumps(damaged))
        found = shown(folder)
        assert loads(found) == []
        assert ("the comparison cannot be read" in found.text) == (not readable(folder))
    path.write_bytes(b"\xff{")
    assert "the comparison cannot be read" in shown(folder).text

"""`python -m asose_fast.report`: files, figures, comparison, errors."""

import importlib.util
import xml.etree.ElementTree as ElementTree

import pytest

from asose_fast.report import drawing
from asose_fast.report.__main__ import main
from asose_fast.report.run import read
from asose_fast.space import BlockSpec
from asose_fast.space.cells.genotype import from_text
from asose_fast.space.genotype import Genotype
from tests.export.networks import make_derived, make_run
from tests.helpers import make_config, make_trainer, python
from tests.report.runs import Page, records, write_run


@pytest.fixture
def folder(tmp_path):
    config = make_config(growth_epochs=4)
    folder = write_run(tmp_path / "run", records(config), config, test_accuracy=0.5)
    return make_run(folder, make_derived([BlockSpec(("sep_conv_3x3",), 4, 8, 2), BlockSpec(("none",), 8, 8)], 1, 10), 8)


def test_one_run(folder, tmp_path, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'report.html'}\n"
    assert main([str(folder), "--out", str(tmp_path / "new" / "page.html")]) == 0
    found = Page((tmp_path / "new" / "page.html").read_text())
    assert "50.0 % test accuracy" in found.text
    assert "10 classes class 0, class 1" in found.text
    assert "1 sep_conv_3x3" in found.text
    assert "stride 2, projection, 8 channels, 4 × 4" in found.text  # noqa: RUF001


def test_what_checkpoints_add(folder, capsys):
    trainer = make_trainer(folder)
    trainer.save("last")
    run = read(folder)
    assert run.problems == []
    assert run.choice.candidates == trainer.state.selector.candidates
    assert [sum(row) for row in run.choice.probabilities] == pytest.approx([1.0, 1.0])
    assert run.provenance["data"] == trainer.state.data.digest
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert main([str(folder)]) == 0
    assert "no good checkpoint is left" in capsys.readouterr().err
    assert "no good checkpoint is left" in Page((folder / "report.html").read_text()).text


def test_figures(folder, tmp_path):
    out = tmp_path / "figures"
    assert main([str(folder), "--figures", str(out)]) == 0
    names = {"accuracy", "loss", "temperature", "throughput", "operations", "shares", "entropy", "max_weight"}
    names |= {"phases", "network"}
    assert {path.stem for path in out.glob("*.svg")} == names
    for path in out.glob("*.svg"):
        assert ElementTree.fromstring(path.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme:dark" in path.read_text()
    if importlib.util.find_spec("resvg_py"):
        from PIL import Image

        assert {path.stem for path in out.glob("*.png")} == names
        with Image.open(out / "loss.png") as image:
            assert image.width == 1720
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_several_runs(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = write_run(tmp_path / "other", records(make_config())[:2], make_config())
    assert main([str(folder), str(other), "--figures", "f"]) == 0
    assert "wrote comparison.html and " in capsys.readouterr().out
    assert "Comparison of 2 runs" in Page((tmp_path / "comparison.html").read_text()).text
    assert (tmp_path / "f" / "valid_accuracy.svg").exists()
    assert main([str(folder), str(other)]) == 0
    assert "wrote comparison.html, in place of the comparison that was there\n" in capsys.readouterr().out
    assert main([str(folder)]) == main([str(folder)]) == 0  # the page of a run is kept up to date
    assert "in place" not in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path, folder, capsys):
    for path, message in ((tmp_path / "no", "there is no run folder"), (tmp_path, "is no run folder: it has none of")):
        assert main([str(path)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(folder), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(folder), "--figures", str(tmp_path / "file")]) == 2


NORMAL = [("sep_conv_3x3", 0), ("skip_connect", 1)] * 4
REDUCTION = [("max_pool_3x3", 0), ("dil_conv_5x5", 1)] * 4
CELLS = {
    "Normal cell": "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "Reduction cell": f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCTION}, "
    "reduce_concat=range(2, 6))",
}


@pytest.mark.parametrize("words", CELLS)
def test_cells_are_drawn(words):
    text = CELLS[words]
    spec = from_text(text, in_channels=3, classes=10, channels=16, cells=5)
    genotype = Genotype(spec, tuple("0123456789"), (0.0,) * 3, (1.0,) * 3).to_dict()
    for width in (860.0, 360.0):
        figure = str(drawing.network(genotype)(width))
        ElementTree.fromstring(figure)
        assert words in figure
        assert figure.count("<path") == len(spec.edges)


def test_training_starts_without_what_draws():
    loaded = python("-c", "import asose_fast.train, sys; print('asose_fast.report.page' in sys.modules)")
    assert loaded.stdout == "False\n"

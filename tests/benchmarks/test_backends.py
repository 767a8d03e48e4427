"""Tables of what has which backend: that documents hold those of the registry, and what is said where they do not."""

import pytest

from asose_fast.ops import registry
from benchmarks import backends
from tests.helpers import ROOT


def test_documents_hold_the_tables_of_the_registry(capsys):
    if not (ROOT / "README.md").exists():
        pytest.skip("needs the documents")
    assert backends.main(["--check"]) == 0, capsys.readouterr().out
    for page in backends.PAGES:
        assert backends.MARKED.search(page.read_text()), f"{page} has no table"


def test_a_new_operator_makes_a_table_old(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- backends: cpu triton -->\n<!-- /backends -->\nafter\n")
    assert backends.main([str(page)]) == 0
    assert backends.main(["--check", str(page)]) == 0
    monkeypatch.setitem(registry._MODULES, "some", {"reference": "", "triton": ""})
    assert backends.main(["--check", str(page)]) == 1
    assert "run `python -m benchmarks.backends`" in capsys.readouterr().out
    assert backends.main([str(page)]) == 0
    assert "| `some` | - | compiled, tested in the interpreter |" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_hardware_is_measured_where_its_results_are(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "gpu.jsonl").write_text("{}")
    assert backends.table(["cpu", "cuda"])[-1] == "| speed and memory on hardware | not measured | measured |"


@pytest.mark.parametrize(
    ("text", "why"),
    [("<!-- backends: cpu -->\n", "needs a line"), ("<!-- backends: tpu -->\n<!-- /backends -->", "no backend 'tpu'")],
)
def test_marks_that_are_wrong(text, why):
    with pytest.raises(ValueError, match=why):
        backends.rewritten(text, "en")

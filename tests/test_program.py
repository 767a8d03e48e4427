"""How a command is written in usage and hints: as this process was begun."""

import sys
from pathlib import Path

import pytest

import asose_fast
from asose_fast.program import spelled

PACKAGE = Path(asose_fast.__file__).parent


@pytest.fixture
def script(tmp_path):
    """The installed program, in a folder of its own."""
    path = tmp_path / "my bin" / "asose-fast"
    path.parent.mkdir()
    path.touch(0o755)
    return path


def begun(monkeypatch, path):
    monkeypatch.setattr(sys, "argv", [str(path), "derive", "run"])


def test_the_script_is_named_where_a_shell_finds_it(script, monkeypatch):
    monkeypatch.setenv("PATH", str(script.parent))
    begun(monkeypatch, script)
    assert spelled("train") == "asose-fast train"
    assert spelled() == "asose-fast"
    assert spelled("train", 2) == "torchrun --nproc_per_node 2 --no-python asose-fast train"


def test_the_script_is_written_with_its_path_where_a_shell_finds_none_or_another(script, tmp_path, monkeypatch):
    begun(monkeypatch, script)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "asose-fast").touch(0o755)
    for path in (tmp_path / "none", tmp_path / "other"):
        monkeypatch.setenv("PATH", str(path))
        assert spelled("train") == f"'{script}' train"


@pytest.mark.parametrize("linked", [False, True])
def test_the_script_may_be_a_link_or_be_begun_by_a_relative_path(script, linked, tmp_path, monkeypatch):
    link = tmp_path / "asose-fast"
    link.symlink_to(script)
    monkeypatch.setenv("PATH", str(tmp_path if linked else script.parent))
    monkeypatch.chdir(tmp_path)
    begun(monkeypatch, "my bin/asose-fast")
    assert spelled("train") == "asose-fast train"


def test_the_package_is_named_as_what_it_is(monkeypatch):
    begun(monkeypatch, PACKAGE / "__main__.py")
    assert spelled("train") == "python -m asose_fast train"
    assert spelled() == "python -m asose_fast"
    assert spelled("train", 4) == "torchrun --nproc_per_node 4 -m asose_fast train"


@pytest.mark.parametrize("path", [PACKAGE / "train.py", PACKAGE / "export" / "__main__.py", "notebook.py", ""])
def test_anything_else_is_told_the_module(path, monkeypatch):
    begun(monkeypatch, path)
    assert spelled("train") == "python -m asose_fast.train"
    assert spelled("train", 4) == "torchrun --nproc_per_node 4 -m asose_fast.train"
    assert spelled("search") == "python -m asose_fast search"
    assert spelled() == "python -m asose_fast"

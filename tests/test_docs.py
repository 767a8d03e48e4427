"""Every code block of docs/ runs, in order, in a folder that holds a run of digits."""

import re
import runpy
import shlex
import sys

import pytest

from asose_fast.space import BlockSpec
from tests.export.networks import make_derived, make_run
from tests.helpers import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "docs").glob("*.md"))


def command(line, monkeypatch):
    """Runs `python -m MODULE ...` in this process; an exit status other than 0 fails."""
    python, option, name, *arguments = shlex.split(line)
    assert (python, option) == ("python", "-m")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.delitem(sys.modules, f"{name}.__main__", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert not end.value.code


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_block_runs(page, tmp_path, monkeypatch, capsys):
    if page.stem == "export":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    make_run(tmp_path / "run", make_derived([BlockSpec(("sep_conv_3x3",), 4, 8, 2)], 1, 10), image_size=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks, scope = BLOCK.findall(page.read_text()), {}
    assert blocks
    for language, text in blocks:
        if language == "bash":
            for line in text.splitlines():
                command(line, monkeypatch)
        else:
            assert language == "python"
            exec(compile(text, str(page), "exec"), scope)
    monkeypatch.delitem(sys.modules, "net", raising=False)

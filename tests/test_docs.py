"""Every code block of README and docs/ runs, in order, in a folder that holds a run of digits; commands are real."""

import argparse
import re
import runpy
import shlex
import sys
import tomllib
import types

import jsonargparse
import pytest
import yaml

from asose_fast.config import Config
from asose_fast.ops import registry
from asose_fast.space import BlockSpec
from tests.export.networks import make_derived, make_run
from tests.helpers import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
RUN = [name for name, text in TEXT.items() if {"bash", "python"} & {language for language, _ in BLOCK.findall(text)}]


def module(words, monkeypatch):
    """Runs `python -m MODULE ...` in this process and returns its exit status."""
    name, *arguments = words
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    for loaded in (name, f"{name}.__main__"):
        if not hasattr(sys.modules.get(loaded), "__path__"):  # a package imported anew would lose its modules
            monkeypatch.delitem(sys.modules, loaded, raising=False)
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    return 0


def split(line):
    """The words of a command, without its comment and environment."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    return ["python", "-m", "asose_fast", *words[1:]] if words[:1] == ["asose-fast"] else words


@pytest.mark.parametrize("name", RUN)
def test_every_block_runs(name, tmp_path, monkeypatch, capsys):
    if name == "docs/export.md":
        for needed in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(needed)
    make_run(tmp_path / "run", make_derived([BlockSpec(("sep_conv_3x3",), 4, 8, 2)], 1, 10), image_size=8)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(Config().to_dict()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_MODULES", dict(registry._MODULES))  # a page may register an operator
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    for language, text in BLOCK.findall(TEXT[name]):
        if language == "bash":
            for words in filter(None, map(split, text.replace("\\\n", " ").splitlines())):
                assert words[:2] == ["python", "-m"]
                assert not module(words[2:], monkeypatch), words
        elif language == "python":
            exec(compile(text, name, "exec"), page.__dict__)
    monkeypatch.delitem(sys.modules, "net", raising=False)


def commands():
    """Those of blocks that are not run, and of the text."""
    for name, text in TEXT.items():
        blocks = [block for language, block in BLOCK.findall(text) if language == "console"]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        inline = re.findall(
            r"`((?:asose-fast|python -m|torchrun|pytest|make|pip) [^`]+)`", re.sub(r"(?s)```.*?```", "", text)
        )
        for line in dict.fromkeys([*lines, *(" ".join(code.split()) for code in inline)]):
            for part in line.partition("|")[0].split("&&"):
                if words := split(part):
                    yield pytest.param(words, id=f"{name}: {' '.join(words)}")


class Parsed(Exception):
    """The command line is right."""


@pytest.mark.parametrize("words", list(commands()))
def test_commands_are_real(words, monkeypatch, capsys):
    """Modules, options, targets, extras and paths exist; options of `python -m` are parsed by their program."""
    monkeypatch.chdir(ROOT)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    program, rest = words[0], [word for word in words[1:] if word != "..."]
    if program == "python":
        assert rest[0] == "-m"
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            monkeypatch.setattr(parser, "parse_args", parse_and_stop(parser.parse_args))
        try:
            assert not module(rest[1:], monkeypatch)  # --help and --print_config end by themselves
        except Parsed:
            return
        assert {"--help", "--print_config"} & set(rest)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {extra for word in rest for extra in re.findall(r"\.\[(\w+)\]", word)} <= set(extras)
    elif program == "bash":
        assert (ROOT / rest[0]).exists()
    else:
        assert program == "pytest"
        assert all((ROOT / word).exists() for word in rest if not word.startswith("-"))


def parse_and_stop(parse):
    def parse_args(self, *arguments, **settings):
        parse(self, *arguments, **settings)
        raise Parsed

    return parse_args


def outline(text):
    """What both READMEs have in common, whatever their language: in order, but for the words."""
    prose = re.sub(r"(?s)```.*?```", "", text)
    return {
        "headings": re.findall(r"^#+", prose, re.MULTILINE),
        "blocks": re.findall(r"(?s)```.*?```", text),
        "figures of tables": [re.findall(r"\d[\d.]*", row) for row in re.findall(r"^\|.*", prose, re.MULTILINE)],
        "code": sorted(set(re.findall(r"`([^`\n]+)`", prose))),
        "links": sorted(set(re.findall(r"\]\(([^)]+)\)", prose)) - {"README.md", "README.zh-CN.md"}),
        "items": len(re.findall(r"^- ", prose, re.MULTILINE)),
    }


def test_the_chinese_readme_keeps_step():
    assert outline(TEXT["README.zh-CN.md"]) == outline(TEXT["README.md"])


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_links_of_the_readmes_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)#]+)", TEXT[name]):
        assert (ROOT / link).exists(), link


def test_external_links_are_well_formed():
    for name, text in TEXT.items():
        for link in re.findall(r"\w*://[^\s)>\"']+", text):
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link), f"{name}: {link}"

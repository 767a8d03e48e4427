"""Sentences are short: at most 25 words on average, on every page and in the docstrings of every module."""

import ast
import inspect
import re

import pytest

from tests.helpers import ROOT

MOST = 25
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "asose_fast").rglob("[!_]*.py"))

ASIDE = re.compile(
    r"\A---\n.*?^---$"  # front matter
    r"|^ *```.*?^ *```$"  # code and formulas
    r"|<!--.*?-->"
    r"|^(?:\||#|!\[)[^\n]*",  # tables, headings, pictures
    re.MULTILINE | re.DOTALL,
)
BETWEEN = re.compile(r"\n\s*\n|^\s*(?:[-*]|\d+\.) |^ {4,}\w+(?:, \w+)*: ", re.MULTILINE)  # paragraphs, items, arguments
END = re.compile(r"(?<=[.!?])[)\"'*_]*\s+(?=[\"'(*_\[]*[A-Z0-9`])|(?<=[.!?:])[)\"'*_]*\s*\Z")


def sentences(text):
    """Those of a Markdown text. Inline code is one word; what ends without a mark counts only where it is long."""
    text = re.sub(r"\]\([^)]*\)", "]", ASIDE.sub("\n\n", text))  # links without their addresses
    text = re.sub(r"`[^`]+`", "`", text)
    for block in BETWEEN.split(text):
        *whole, rest = END.split(block.strip())
        yield from whole
        if words(rest) > MOST:
            yield rest


def words(sentence):
    return len(re.findall(r"\S*[\w`]\S*", sentence))


def average(text):
    """Words a sentence; 0 where there is none."""
    counts = [words(sentence) for sentence in sentences(text)]
    return sum(counts) / max(1, len(counts))


def docstrings(source):
    """Those of modules, classes and functions, and the strings that follow a variable."""
    return "\n\n".join(
        inspect.cleandoc(node.value.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_of_a_page_are_short(page):
    assert 0 < average(page.read_text()) <= MOST


def test_sentences_of_docstrings_are_short():
    found = {str(path.relative_to(ROOT)): average(docstrings(path.read_text())) for path in MODULES}
    assert sum(value > 0 for value in found.values()) > len(found) / 2 > 0
    assert not {name: value for name, value in found.items() if value > MOST}


LONG = "One goes on " + "and on " * 30 + "."
SHORT = "It is short."


@pytest.mark.parametrize("text", [LONG, f"{LONG} {SHORT} {LONG}", f"- {LONG}\n- {LONG}", f"# A\n\n{LONG[:-1]}\n"])
def test_long_sentences_are_found(text):
    assert average(text) > MOST
    assert average(docstrings(f'def f():\n    """{text}"""\n')) == average(text)


@pytest.mark.parametrize("aside", ["---\n{}\n---", "```text\n{}\n```", "| {} |", "## {}", "<!-- {} -->"])
def test_only_prose_counts(aside):
    assert average(aside.format(LONG) + f"\n\n{SHORT}\n") == 3


def test_words_and_sentences_are_counted_as_a_reader_does():
    text = "It takes 1.5 s (see [the page](a.md)): `python -m it --option`, or e.g. more. Is\nthat all? Yes."
    assert [words(sentence) for sentence in sentences(text)] == [11, 3, 1]

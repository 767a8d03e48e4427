"""Tables of Markdown files that commands write, between a pair of comments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path

Rewrite = Callable[[str, str], str]
"""Makes a page's text new, given the text and its language: en or zh-CN."""


def markdown(table: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the first row of which is its head."""
    head, *body = ["|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in table]
    return [head, "|" + "---|" * len(table[0]), *body]


def marker(kind: str, names: str) -> re.Pattern[str]:
    """Finds what stands from `<!-- kind: names -->` to `<!-- /kind -->`; `names` is a pattern, and the second group."""
    return re.compile(rf"(<!-- {kind}: ({names}) -->\n).*?(<!-- /{kind} -->)", re.DOTALL)


def replaced(text: str, kind: str, marked: re.Pattern[str], table: Callable[[str], list[str]]) -> str:
    """The text with the lines of `table(names)` wherever `marked` finds a place for them.

    Raises ValueError for markers without their counterpart.
    """

    def replace(found: re.Match[str]) -> str:
        opening, names, closing = found.groups()
        return opening + "\n" + "\n".join(table(names)) + "\n\n" + closing

    result, pairs = marked.subn(replace, text)
    if not text.count(f"<!-- {kind}:") == text.count(f"<!-- /{kind} -->") == pairs:
        raise ValueError(f"every line `<!-- {kind}: NAME -->` needs a line `<!-- /{kind} -->` after it")
    return result


def update(
    parser: argparse.ArgumentParser, files: Iterable[Path], rewrite: Rewrite, *, check: bool, outdated: str
) -> int:
    """Writes the pages anew or, to `check`, prints which are `outdated`. Returns the exit status.

    A page whose name ends in .zh-CN.md is Chinese. A ValueError of `rewrite` is the parser's error.
    """
    status = 0
    for path in files:
        text = path.read_text()
        try:
            new = rewrite(text, "zh-CN" if path.name.endswith(".zh-CN.md") else "en")
        except ValueError as error:
            parser.error(f"{path}: {error}")
        if new == text:
            continue
        if check:
            status = 1
            print(f"{path}: {outdated}")
        else:
            path.write_text(new)
    return status

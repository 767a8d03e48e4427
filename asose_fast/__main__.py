"""`asose-fast`, or `python -m asose_fast`: one program for all commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from asose_fast.command import EXIT_ERROR, Parser, command, nearest
from asose_fast.version import __version__


class Command(NamedTuple):
    """Where a command is found when it is given, and what it does."""

    module: str
    summary: str
    function: str = "main"


COMMANDS = {
    "search": Command("asose_fast.train", "Searches a network on your own images.", "search"),
    "train": Command("asose_fast.train", "Searches, grows, derives and trains a network on images."),
    "derive": Command("asose_fast.derive", "Chooses a network from the supernet of a run, anew and in other ways."),
    "retrain": Command("asose_fast.retrain", "Trains a derived architecture from scratch."),
    "compare": Command(
        "asose_fast.compare", "Says whether a search was worth it, beside random networks and a plain one of its size."
    ),
    "front": Command(
        "asose_fast.front", "Gives several networks of one search, from small ones to the found one, each trained."
    ),
    "export": Command(
        "asose_fast.export.__main__", "Writes the derived network of a run as what runs without asose_fast."
    ),
    "predict": Command("asose_fast.predict.__main__", "Says the classes of images, by the network of a run."),
    "report": Command(
        "asose_fast.report.__main__", "Writes a page on a run, or on several compared, in one HTML file."
    ),
    "info": Command("asose_fast.info", "Says what is available here, and why the rest is not."),
}


@command
def main(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names, with those that follow. Returns its exit status."""
    if not arguments or arguments[0].startswith("-"):
        parser = _parser()
        parser.parse_args(arguments)  # --help and --version end the process
        parser.print_help()
        return EXIT_ERROR
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}{nearest(name, COMMANDS) or '; known are ' + ', '.join(COMMANDS)}")
    found = COMMANDS[name]
    status: int = getattr(importlib.import_module(found.module), found.function)(rest)
    return status


def _parser() -> Parser:
    parser = Parser("", "Finds a neural network for images, and does what comes after. COMMAND --help says more.")
    parser.add_argument("--version", action="version", version=f"asose_fast {__version__}")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, known in COMMANDS.items():
        listed.add_parser(name, help=known.summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Options from a dataclass of settings: one for each field, in the groups that the dataclass is put together from."""

from __future__ import annotations

import dataclasses
import inspect
import json
from argparse import Action
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from asose_fast.bounds import Settings
from asose_fast.command import end_with, normalized
from asose_fast.config_file import ConfigFile
from asose_fast.program import spelled

FIRST = {"dataset", "data_root", "epochs", "seconds", "batch_size", "seed", "device", "threads"}
"""The settings that most people need. The help shows them ahead of the others, with --config and where a run lies."""


HIDDEN = "hidden"
"""The help of an option that is not shown. argparse.SUPPRESS would keep it out of --print_config too."""


class SettingsParser(ArgumentParser):
    """The parser of a command whose options are settings, which a YAML file may hold too.

    `argument`: how the help writes what is given ahead of the options.
    """

    def __init__(self, command: str, description: str | None, argument: str = "") -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        usage = f"%(prog)s {argument} [--OPTION VALUE ...]".replace("  ", " ")
        super().__init__(prog=spelled(command), usage=usage, description=description, formatter_class=_OptionFormatter)
        self._optionals.title = "what most people need"
        self.add_argument("--config", action=ConfigFile, metavar="FILE", help="A YAML file with any of the options.")
        self._option_string_actions["--print_config"].help = "Print all settings as YAML, with those given, and exit."

    def add_settings(self, settings: type[Settings]) -> None:
        """An option for each field of the dataclass; the group of a part has its name and says its first sentence."""
        for part, own in _parts(settings):
            self.add_class_arguments(part, as_group=False, skip=_fields(part) - (own & FIRST))
        for part, own in _parts(settings):
            group = self.add_argument_group(part.__name__.removesuffix("Config").lower(), _first_sentence(part))
            group.add_class_arguments(part, as_group=False, skip=_fields(part) - (own - FIRST))
        for action in self._actions:
            if hasattr(action, "_typehint") and str(action.metavar or "{").startswith(("{", "[")):
                action.metavar = _value(action._typehint)

    def hide(self, *options: str) -> None:
        """Leaves options out of the help, which decide what the command has decided."""
        for option in options:
            self._option_string_actions[option].help = HIDDEN

    def words(self, arguments: Sequence[str]) -> list[str]:
        """The command line with options as they are declared, each with a value."""
        options = self._option_string_actions.items()
        return normalized(arguments, {name for name, action in options if getattr(action, "_typehint", None) is bool})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        end_with(message, self)


def _parts(settings: type[Settings]) -> Iterator[tuple[type[Settings], set[str]]]:
    """The dataclasses that one is put together from, each with the fields of its own."""
    for part in reversed(settings.__mro__):
        if issubclass(part, Settings) and (declared := inspect.get_annotations(part)):
            yield part, set(declared)


def _fields(part: type[Settings]) -> set[str | int]:
    return {field.name for field in dataclasses.fields(part)}


def _first_sentence(part: type) -> str:
    return " ".join((inspect.getdoc(part) or "").split()).partition(". ")[0].rstrip(".") + "."


class _OptionFormatter(DefaultHelpFormatter):
    """An option is shown with its sentence, its choices and its default."""

    def add_argument(self, action: Action) -> None:
        if action.help is not HIDDEN:
            super().add_argument(action)

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        notes: list[str] = []
        hint = _required(getattr(action, "_typehint", None))
        if get_origin(hint) is Literal:
            notes.append("one of " + ", ".join(map(str, get_args(hint))))
        if hint and action.option_strings and not (action.default is None and "default" in text):
            notes.append(f"default: {_written(action.default)}")
        return text + (f" ({'; '.join(notes)})" if notes else "")


def _required(hint: Any) -> Any:
    """The type of `hint` where it is `type | None`."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(hint) else hint


def _value(hint: Any) -> str:
    """What stands for a value of the type."""
    kind = _required(hint)
    names = {int: "N", float: "X", bool: "true|false", str: "TEXT"}
    return "NAME" if get_origin(kind) is Literal else names.get(kind, "[A,B,...]")


def _written(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

"""This module reads files that a user hands over, YAML and JSON among them. They must be regular files, and no larger
than they can be."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

MOST_SETTINGS, MOST_RESULT, MOST_METRICS, MOST_TENSORS = 1 << 16, 1 << 24, 1 << 26, 1 << 36
"""Files have at most so many bytes: config.yaml or a genotype's text; genotype.json or summary.json; metrics.jsonl; a
file of tensors. All are many times what a run writes."""
MOST_NODES = 100_000
"""A YAML file has at most so many values, each counted as often as aliases repeat it."""
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class UnreadableFileError(OSError):
    """What is there is no regular file, or is larger than it can be."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be read: {self.strerror}"


def read(path: Path, most: int) -> bytes:
    """Returns the content of a regular file of at most `most` bytes. It never waits, as at a pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
            raise UnreadableFileError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        if found.st_size > most:
            told = f"it has {found.st_size:,} bytes, and can have {most:,} at most"
            raise UnreadableFileError(errno.EFBIG, told, str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_json(path: Path, most: int = MOST_RESULT) -> Any:
    """Returns what a JSON file holds. Raises OSError and ValueError, which name the file."""
    try:
        return json.loads(read(path, most))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no JSON ({error})") from error


def parsed_json(path: Path, parse: Callable[[Any], T]) -> T:
    """Returns what `parse` makes of a JSON file. Raises OSError and ValueError, which name the file."""
    values = read_json(path)
    try:
        return parse(values)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {str(error) or type(error).__name__}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the names and values of a YAML file. Raises OSError and ValueError, which name the file."""
    try:
        values = parse_yaml(read(path, MOST_SETTINGS))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no YAML ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} is damaged: it does not hold names with values")
    return values


def parse_yaml(content: bytes) -> Any:
    """Returns what YAML says. Raises ValueError for what is no YAML, or holds more than it can."""
    loader = None
    try:
        loader = yaml.SafeLoader(content.decode())
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values, its aliases followed")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except Exception as error:  # a value that is not of the type of its tag raises many types
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from error
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Counts the values that a node stands for. They are too many where it is a part of itself."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_NODES + 1  # until it is known
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]

"""Every module can be the first one that is imported."""

import inspect
import pkgutil
import subprocess
import sys

import asose_fast

IMPORT_EACH = """
import importlib, os, sys
import torch

for name in sys.argv[1:]:
    if not (pid := os.fork()):
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        print(name)
"""
"""Prints the names that cannot be imported into a process that has only torch."""


def test_each_module_can_be_imported_first() -> None:
    names = [found.name for found in pkgutil.iter_modules(asose_fast.__path__, "asose_fast.")]
    assert "asose_fast.observe" in names
    found = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *names, "asose_fast.missing"], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["asose_fast.missing"], found.stderr


def test_every_name_of_the_package_is_there() -> None:
    assert all(getattr(asose_fast, name) is not None for name in asose_fast.__all__)
    assert inspect.isfunction(asose_fast.search)

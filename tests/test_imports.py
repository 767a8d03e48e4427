"""Every module can be the first one that is imported."""

import pkgutil
import subprocess
import sys

import pytest

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


def test_the_package_is_imported_without_torch_and_its_names_are_there() -> None:
    code = "import sys, asose_fast; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    assert set(asose_fast.__all__) <= set(dir(asose_fast))
    assert all(getattr(asose_fast, name) is not None for name in asose_fast.__all__)
    with pytest.raises(AttributeError, match="module 'asose_fast' has no attribute 'serach'"):
        asose_fast.serach  # noqa: B018

"""Collects the lines of every benchmark's table and prints them at the end.

`--with-compile` adds torch.compile, `--wide` networks of more channels; `--benchmark-disable` runs everything, but only
to see that it runs.
"""

import platform

import pytest
import torch

from benchmarks import measure

_LINES: list[tuple[str, object]] = []


def pytest_addoption(parser):
    parser.addoption("--with-compile", action="store_true", help="measure torch.compile too (minutes of compiling)")
    parser.addoption("--wide", action="store_true", help="measure networks of 32 and 64 channels too")


def pytest_generate_tests(metafunc):
    if "channels" in metafunc.fixturenames:
        metafunc.parametrize("channels", [16, 32, 64] if metafunc.config.getoption("--wide") else [16])


def pytest_configure(config):
    if _dry(config):
        measure.limit_rounds(2)


def _dry(config):
    """Whether everything is only to be seen running."""
    return config.getoption("benchmark_disable", False)


@pytest.fixture
def with_compile(request):
    return request.config.getoption("--with-compile")


@pytest.fixture
def dry(request):
    return _dry(request.config)


@pytest.fixture
def batch(dry):
    """Images of a step."""
    return 4 if dry else 64


@pytest.fixture
def report(request, benchmark):
    """report(row, value): a line of the table, kept in pytest-benchmark's JSON as well."""

    def add(row, value):
        _LINES.append((row, value))
        benchmark.extra_info[row] = str(value)

    return add


def pytest_terminal_summary(terminalreporter):
    if _LINES:
        terminalreporter.section("ratios (ours is better above 1)")
        machine = platform.processor() or platform.machine()
        terminalreporter.write_line(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine}")
        width = max(len(row) for row, _ in _LINES)
        for row, value in _LINES:
            terminalreporter.write_line(f"{row:{width}s}  {value}")

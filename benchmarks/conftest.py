"""Collects the lines of every benchmark's table and prints them at the end.

`--with-compile` adds torch.compile, `--wide` networks of more channels, `--without-bf16` leaves bfloat16 out, which
takes long on processors without it; `--benchmark-disable` runs everything, but only to see that it runs. What was
measured is appended to `.benchmarks/measured.jsonl`, or to the path of `--json`, with processor, versions and commit.
"""

import pytest

from benchmarks import measure, record

_LINES: list[tuple[str, object]] = []


def pytest_addoption(parser):
    parser.addoption("--with-compile", action="store_true", help="measure torch.compile too (minutes of compiling)")
    parser.addoption("--without-bf16", action="store_true", help="do not measure bfloat16 autocast")
    parser.addoption(
        "--json", metavar="PATH", help="append what was measured here (default: .benchmarks/measured.jsonl)"
    )
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
def with_bf16(request):
    return not request.config.getoption("--without-bf16")


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


def _json_path(config):
    """Where to write: what a dry run measures is worth nothing unless it was asked for."""
    chosen = config.getoption("--json")
    if chosen:
        return config.invocation_params.dir / chosen
    return None if _dry(config) else record.ROOT / ".benchmarks" / "measured.jsonl"


def pytest_terminal_summary(terminalreporter, config):
    if _LINES:
        path = _json_path(config)
        if path:
            record.append(path, [record.row_of(*line) for line in _LINES])
            terminalreporter.write_line(f"appended to {path}")
        terminalreporter.section("ratios (ours is better above 1)")
        machine = record.environment()
        terminalreporter.write_line("{cpu}, {threads} threads, {instruction_set}, torch {torch}".format(**machine))
        width = max(len(row) for row, _ in _LINES)
        for row, value in _LINES:
            terminalreporter.write_line(f"{row:{width}s}  {value}")

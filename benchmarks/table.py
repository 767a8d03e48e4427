"""Tables of a Markdown file from a file of measurements: `python -m benchmarks.table [--check|--measure] [FILE...]`

What stands between `<!-- table: NAME -->` and `<!-- /table -->` is replaced; NAME is one of machine, operators, steps
and memory. Files are both READMEs and docs/performance.md unless named, in Chinese where the name ends in .zh-CN.md.
Of each row the newest measurement on one processor counts: on that of the last measurement, or of `--cpu`.
`--check` changes nothing and fails where a table is out of date. `--measure` measures the rows of all tables first, and
appends them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from benchmarks.marked import markdown, marker, replaced, update
from benchmarks.record import Row

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "README.zh-CN.md", "docs/performance.md")]
RESULTS = ROOT / "benchmarks" / "results" / "cpu.jsonl"
MARKED = marker("table", r"\w+")

SOFT = "benchmarks/test_soft_step.py::test_time"
MEASURED = [
    [
        "--with-compile",
        "benchmarks/test_mixed_sum.py::test_forward_and_backward",
        "benchmarks/test_arch_weights.py::test_forward_and_backward[20]",
    ],
    [
        "--wide",
        "--without-bf16",
        *(f"{SOFT}[{case}]" for case in ("16-soft-ten", "16-soft-darts", "32-soft-ten", "64-soft-ten")),
        *(f"{SOFT}[{case}]" for case in ("16-alpha-ten", "64-alpha-ten")),
        "benchmarks/test_default_search.py::test_step",
        "benchmarks/test_training_step.py::test_step",
        "benchmarks/test_multi_depthwise.py::test_forward_and_backward",
        "benchmarks/test_memory.py::test_peak[16]",
    ],
]
"""Arguments of the runs of pytest that measure the tables' rows and little else."""

Text = dict[str, str]


def both(english: str, chinese: str) -> Text:
    return {"en": english, "zh-CN": chinese}


WORK = both("work, forward and backward", "计算（前向与反向）")
PLAIN = both("eager NCHW", "eager NCHW"), both("eager channels_last", "eager channels_last")
NOT_MEASURED = both("not measured", "未测量")


class Line(NamedTuple):
    label: Text
    cells: list[tuple[str, str] | None]
    """Row and form of a ratio, column by column; None where there is nothing to compare with."""
    timed: str = ""
    """The row with our own time."""


def mixed_sum(shape: str) -> Line:
    row = f"mixed_sum fwd+bwd K=10 {shape}"
    label = f"`mixed_sum`, K=10, {shape}"
    return Line(
        both(label, label), [(f"{row} nchw", "eager"), (f"{row} nhwc", "eager"), (f"{row} nhwc", "torch.compile")]
    )


def step(label: Text, row: str, skipping: bool = True) -> Line:
    row = f"six layers, {row}"
    forms = ["eager nchw", "eager nhwc"]
    forms += [f"{form}, skipping" for form in forms] if skipping else []
    cells: list[tuple[str, str] | None] = [(row, form) for form in forms]
    return Line(label, cells + [None] * (4 - len(cells)), row)


def depthwise(shape: str) -> Line:
    row, label = f"multi_depthwise fwd+bwd {shape}", f"`multi_depthwise`, {shape}"
    return Line(both(label, label), [(row, "eager nchw"), (row, "eager nhwc"), None, None], row)


OPERATORS = [
    mixed_sum("(64, 32, 32, 32)"),
    mixed_sum("(64, 16, 32, 32)"),
    mixed_sum("(64, 64, 8, 8)"),
    mixed_sum("(2, 16, 8, 8)"),
    Line(
        both("`arch_weights`, L=20, K=10, beside a loop over layers", "`arch_weights`，L=20，K=10，对比逐层循环"),
        [
            ("arch_weights fwd+bwd L=20 K=10", "eager loop"),
            None,
            ("arch_weights fwd+bwd L=20 K=10", "torch.compile"),
        ],
    ),
]


def default(label: Text, side: int, kind: str) -> Line:
    """Of the default search, whose variants all compute only what a step needs."""
    row = f"default search, {side}x{side}, batch 64: {kind}"
    return Line(label, [None, None, *((row, f"eager {form}, skipping") for form in ("nchw", "nhwc"))], row)


STEPS = [
    default(both("default search, 32x32: weight step", "默认搜索，32x32：权重步"), 32, "weight step"),
    default(both("alpha step", "alpha 步"), 32, "alpha step"),
    default(both("4 weight steps and 1 alpha step", "4 个权重步加 1 个 alpha 步"), 32, "cadence step"),
    default(both("step of a derived network", "派生网络的一步"), 32, "step of a derived network"),
    default(both("default search, 8x8: weight step", "默认搜索，8x8：权重步"), 8, "weight step"),
    default(both("alpha step", "alpha 步"), 8, "alpha step"),
    default(both("4 weight steps and 1 alpha step", "4 个权重步加 1 个 alpha 步"), 8, "cadence step"),
    default(both("step of a derived network", "派生网络的一步"), 8, "step of a derived network"),
    step(
        both("soft mixture step, C=16, ten candidates", "软混合步，C=16，十个候选操作"),
        "10 candidates, C=16, batch 64: soft step",
        False,
    ),
    step(
        both("the same, the eight candidates of DARTS", "同上，DARTS 的八个候选操作"),
        "8 candidates, C=16, batch 64: soft step",
        False,
    ),
    step(
        both("the same, ten candidates, C=32", "同上，十个候选，C=32"),
        "10 candidates, C=32, batch 64: soft step",
        False,
    ),
    step(
        both("the same, ten candidates, C=64", "同上，十个候选，C=64"),
        "10 candidates, C=64, batch 64: soft step",
        False,
    ),
    step(both("weight step (sampled path), C=16", "权重步（采样路径），C=16"), "C=16, batch 64: weight step"),
    step(
        both("alpha step (all candidates, no weight gradients), C=16", "alpha 步（全部候选，无权重梯度），C=16"),
        "10 candidates, C=16, batch 64: alpha step",
    ),
    step(both("the same, C=64", "同上，C=64"), "10 candidates, C=64, batch 64: alpha step"),
    step(
        both("4 weight steps and 1 alpha step, C=16", "4 个权重步加 1 个 alpha 步，C=16"),
        "C=16, batch 64: cadence step",
    ),
    depthwise("(64, 16, 32, 32)"),
    depthwise("(64, 32, 16, 16)"),
]
PEAK = "six layers, C=16, batch 64: peak of a soft step"
MEMORY = [
    (both("live tensors", "存活张量"), PEAK),
    (
        both("resident, without the memory pool (`ASOSE_POOL=0`)", "常驻内存，不用内存池（`ASOSE_POOL=0`）"),
        f"{PEAK}, resident",
    ),
    (both("resident, with it", "常驻内存，使用内存池"), f"{PEAK}, resident with the pool"),
]
MODES = {"eager nhwc": "eager", "stacked": '`memory="save"`', "stacked, recomputing": '`memory="recompute"`'}
SHOWN = {
    *(cell for line in (*OPERATORS, *STEPS) for cell in (*line.cells, (line.timed, None)) if cell),
    *((f"{row}, {mode}", None) for _, row in MEMORY for mode in MODES),
}
"""Row and form of every measurement that a table shows."""


class Results:
    """Of each row the newest measurement on the processor `cpu`, or on that of the last measurement."""

    def __init__(self, path: Path, cpu: str | None = None) -> None:
        found = record.read(path)
        cpu = cpu or (found[-1].get("cpu") if found else None)
        ours = [row for row in found if row.get("cpu") == cpu]
        self.newest: Row | None = ours[-1] if ours else None
        self.rows = {(row["row"], row.get("form")): row for row in ours}

    def ratio(self, cell: tuple[str, str] | None, language: str) -> str:
        """Median and quartiles; bold where ours is the slower one."""
        if cell is None:
            return ""
        row = self.rows.get(cell)
        if row is None:
            return NOT_MEASURED[language]
        median, low, high = (f"{row[key]:.{1 if row['median'] >= 2 else 2}f}" for key in ("median", "low", "high"))
        return f"{f'**{median}x**' if row['median'] < 1 else f'{median}x'} [{low}, {high}]"

    def time(self, row: str) -> str:
        """Our own time in brackets."""
        found = self.rows.get((row, None))
        return "" if found is None else f" ({_milliseconds(found['seconds'])})"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"


def machine(results: Results, language: str) -> list[str]:
    """What everything was measured on, and of which commits; more than one where rows were measured again."""
    newest = results.newest
    if newest is None:
        return [NOT_MEASURED[language]]
    commits = dict.fromkeys(str(row["commit"])[:12] for key, row in results.rows.items() if key in SHOWN)
    values = newest | {"isa": newest["instruction_set"], "commit": ", ".join(commits)}
    return [
        both(
            "{cores} cores of {cpu} ({isa}), {threads} threads, torch {torch}, Python {python}, fp32, commit {commit}",
            "{cpu}（{isa}）{cores} 核，{threads} 线程，torch {torch}，Python {python}，fp32，提交 {commit}",
        )[language].format(**values)
    ]


def ratios(results: Results, language: str, columns: list[Text], lines: list[Line]) -> list[str]:
    """A table of ratios."""
    table = [[WORK[language], *(column[language] for column in columns)]]
    for line in lines:
        label = line.label[language] + results.time(line.timed)
        table.append([label, *(results.ratio(cell, language) for cell in line.cells)])
    return markdown(table)


def operators(results: Results, language: str) -> list[str]:
    compiled = both("torch.compile, channels_last", "torch.compile, channels_last")
    return ratios(results, language, [*PLAIN, compiled], OPERATORS)


def steps(results: Results, language: str) -> list[str]:
    skipping = [both("NCHW, skipping", "NCHW，跳过"), both("channels_last, skipping", "channels_last，跳过")]
    return ratios(results, language, [*PLAIN, *skipping], STEPS)


def memory(results: Results, language: str) -> list[str]:
    """The peaks of a step, and their share of eager PyTorch's (channels_last)."""
    title = both(
        "peak of a soft step, C=16, batch 64, without weights and images", "软混合步的峰值，C=16，批 64，不含权重与图像"
    )
    table = [[title[language], *MODES.values()]]
    for label, row in MEMORY:
        # Eager PyTorch knows no pool: with it or without, its peak is the same.
        sizes = [results.rows.get((f"{row}, {mode}", None)) for mode in MODES]
        table.append([label[language], *(_share(size, sizes[0], language) for size in sizes)])
    return markdown(table)


def _share(size: Row | None, whole: Row | None, language: str) -> str:
    if size is None or whole is None:
        return NOT_MEASURED[language]
    amount = f"{size['bytes'] / 2**20:.0f} MiB"
    return amount if size is whole else f"{amount} ({size['bytes'] / whole['bytes']:.0%})"


TABLES = {"machine": machine, "operators": operators, "steps": steps, "memory": memory}


def rewritten(text: str, results: Results, language: str) -> str:
    """The text with every marked table as the results have it. Raises ValueError for a name that is none of TABLES, or
    for markers without their counterpart."""

    def table(name: str) -> list[str]:
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}: choose one of {', '.join(TABLES)}")
        return TABLES[name](results, language)

    return replaced(text, "table", MARKED, table)


def measure(path: Path) -> None:
    """Measures the rows of all tables, and appends them once all are there."""
    part = ROOT / ".benchmarks" / "table.jsonl"
    part.unlink(missing_ok=True)
    for arguments in MEASURED:
        subprocess.run([sys.executable, "-m", "pytest", "--json", str(part), *arguments], cwd=ROOT, check=True)
    with path.open("a") as file:
        file.write(part.read_text())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail where a table is out of date")
    what.add_argument("--measure", action="store_true", help="measure first (about 12 minutes on 2 cores)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="JSONL")
    parser.add_argument("--cpu", help="the processor whose measurements count (default: that of the last one)")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.measure:
        measure(options.results)
    files = options.files or [path for path in PAGES if path.exists()]
    results = Results(options.results, options.cpu)
    return update(
        parser,
        files,
        lambda text, language: rewritten(text, results, language),
        check=options.check,
        outdated=f"its tables are not those of {options.results}: run `python -m benchmarks.table`",
    )


if __name__ == "__main__":
    sys.exit(main())

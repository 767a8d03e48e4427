"""Is HEAD slower than BASE? `python -m benchmarks.compare BASE HEAD [--threshold 1.05] [--json PATH] [CASE...]`

Each commit is checked out and built, and has a process of its own. The two take turns on the same work, pair by pair,
in random order, with the same seeds, inputs and threads; a turn counts as the median of its calls. Where its memory
happens to lie can make a process a quarter slower, and more often that which prepared a case first: half of the pairs
are therefore of other processes, in which the other commit was first. Of every case: the median of time(HEAD) /
time(BASE) over all pairs, with a bootstrap interval of 95 %. A case is suspicious when the lower end is above the
threshold. It is then measured again, in new processes, and fails when it is suspicious twice in a row: exit status 1.
CASE: only those cases whose name contains it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.cases import CASES
from benchmarks.checkouts import Checkout, Plant, checkout
from benchmarks.measure import Interval

TURN = 0.05
"""Seconds of a turn, at least, or one call."""


class Unmeasurable(Exception):
    """A commit cannot run a case."""


class Worker:
    """A process of `benchmarks.worker`, which imports the package of one checkout and the cases of this one."""

    def __init__(self, tree: Checkout, folder: Path, threads: int) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, tree.paths)),
            "OMP_NUM_THREADS": str(threads),
            "PYTHONHASHSEED": "0",
        }
        self.tree = tree
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"], cwd=folder, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def prepare(self, case: str) -> None:
        package = Path(self._ask({"prepare": case})["package"])
        if package.parent.resolve() != self.tree.paths[0].resolve():
            raise RuntimeError(f"the process of {self.tree.commit} imported {package}")

    def seconds(self, calls: int) -> float:
        """The median of so many calls."""
        return statistics.median(self._ask({"run": calls})["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.tree.commit} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unmeasurable(f"{self.tree.commit[:12]} cannot run it: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def workers(trees: list[Checkout], threads: int) -> Iterator[list[Worker]]:
    """New processes, one a checkout, which find the benchmarks of this checkout, and the packages of theirs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "benchmarks").symlink_to(Path(__file__).resolve().parent)
        started = [Worker(tree, Path(folder), threads) for tree in trees]
        for worker in started:
            stack.callback(worker.close)
        yield started


def measure(pair: list[Worker], first: int, case: str, pairs: int, order: random.Random) -> list[tuple[float, float]]:
    """Seconds of a call of both workers, pair by pair; the one with index `first` is the first to prepare the case."""
    for worker in (pair[first], pair[1 - first]):
        worker.prepare(case)
    once = statistics.median(worker.seconds(1) for worker in (*pair, *pair))
    calls = max(1, math.ceil(TURN / once))
    times = []
    for _ in range(pairs):
        turn = [0, 1]
        order.shuffle(turn)
        seconds = {which: pair[which].seconds(calls) for which in turn}
        times.append((seconds[0], seconds[1]))
    return times


def compare(trees: list[Checkout], names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A record of every case, those that fail with verdict "slower"."""
    order = random.Random()
    found: dict[str, dict[str, Any]] = {name: {"case": name, "measured": []} for name in names}

    def judge(name: str, times: list[tuple[float, float]]) -> bool:
        """Records the times of a case; whether it is suspicious."""
        entry, interval = found[name], Interval.of([head / base for base, head in times])
        entry["base_seconds"] = seconds = statistics.median(base for base, _ in times)
        entry["measured"].append(interval._asdict())
        suspicious = interval.low > options.threshold
        faster = interval.high < 1 / options.threshold
        confirmed = suspicious and len(entry["measured"]) > 1
        entry["verdict"] = "slower" if confirmed else "suspicious" if suspicious else "faster" if faster else "as fast"
        print(f"{name:36s} {1e3 * seconds:9.3f} ms  {interval!s:34s} {entry['verdict']}", flush=True)
        return suspicious

    def suspects(names: list[str]) -> list[str]:
        """Those of the cases that are suspicious."""
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for first in (0, 1):
            with workers(trees, options.threads) as pair:
                for name in list(times):
                    try:
                        times[name] += measure(pair, first, name, options.pairs, order)
                    except Unmeasurable as error:
                        del times[name]
                        found[name]["verdict"] = str(error)
                        print(f"{name:36s} {error}", flush=True)
        return [name for name, pairs in times.items() if judge(name, pairs)]

    if again := suspects(names):
        print("again, in new processes:", flush=True)
        suspects(again)
    return list(found.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("head", metavar="HEAD", help="another, maybe the same")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--threshold", type=float, default=1.05, help="of time(HEAD) / time(BASE)")
    parser.add_argument("--pairs", type=int, default=15, help="of turns, with either commit first")
    parser.add_argument("--threads", type=int, default=record.cores(), help="of each process (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="PATH", default=record.ROOT / ".benchmarks" / "compare.json")
    parser.add_argument("--plant", metavar="OP=FACTOR", help="make that kernel of HEAD take FACTOR times as long")
    options = parser.parse_args(arguments)
    names = [name for name in CASES if not options.cases or any(part in name for part in options.cases)]
    if not names:
        parser.error(f"no case is called like that; there are: {'; '.join(CASES)}")
    if options.pairs < 5:
        parser.error("--pairs must be at least 5: fewer have no interval")
    with contextlib.ExitStack() as stack:
        try:
            plant = Plant.parse(options.plant) if options.plant else None
            trees = [stack.enter_context(checkout(options.base)), stack.enter_context(checkout(options.head, plant))]
        except ValueError as error:
            parser.error(str(error))
        print(f"{record.cpu_model()}, {options.threads} threads; time of {options.head} / time of {options.base}")
        results = compare(trees, names, options)
    slower = [entry["case"] for entry in results if entry["verdict"] == "slower"]
    document = {
        "environment": record.environment() | {"threads": options.threads},
        "base": trees[0].commit,
        "head": trees[1].commit,
        "plant": options.plant,
        "threshold": options.threshold,
        "cases": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(f"slower: {'; '.join(slower)}" if slower else "nothing is slower")
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.campaigns.faults --runs 100 --seed 0`: searches are disturbed at random; what becomes of them?

Every disturbed run must, once resumed, end with the weights, genotype, metrics and TensorBoard events of the
undisturbed one, bit for bit, having lost no more than the steps since its last good checkpoint; or say in one error
that there is no good checkpoint. Further options go to the search. The exit status is 1 where a run did neither.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.campaigns.forked import Run
from tests.helpers import options

EVERY = 2
"""Steps between checkpoints."""
SEARCH = {
    "checkpoint_steps": EVERY,
    "checkpoint_seconds": "null",
    "growth_patience": 1,
    "growth_threshold": 99.0,
    "growth_epochs": 3,
    "optimize_epochs": 2,
}
STEPS_PER_EPOCH, EPOCHS = 5, 8
TIMINGS = ("seconds", "images_per_second", "health")
IDENTICAL, ENDED, ANEW, REFUSED, BREACH = OUTCOMES = (
    "resumed, identical",
    "ended undisturbed",
    "no checkpoint yet, started anew",
    "all damaged, refused",
    "breach",
)


class Breach(Exception):
    """A run that was resumed to something else, or not with one clear error."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a finished run has written, without timings."""

    model: bytes
    genotype: bytes
    metrics: list[dict[str, object]]
    events: list[int]

    @staticmethod
    def of(folder: Path) -> Outputs:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        records = [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        steps = [event.step for event in events.Scalars("train_loss")]
        model, genotype = ((folder / name).read_bytes() for name in ("model.safetensors", "genotype.json"))
        return Outputs(model, genotype, records, steps)


@dataclasses.dataclass
class Attempt:
    """One disturbed run: where it lives and what chance it has been dealt."""

    folder: Path
    log: Path
    """On another disk."""
    random: random.Random
    search: list[str]
    file_operations: int
    """Of the undisturbed run."""
    disk_bytes: int
    """Of the undisturbed run's folder at its end."""
    resize: Callable[[int | None], None]
    """Leaves so many bytes free on the disk of the folder; None: enough."""
    steps: int = -1
    """Weight steps done when the disturbance struck."""
    ended: bool = False
    """Whether the run was at its end before anything struck."""
    whole: bool = False
    """Whether the run stopped by itself at the step it was at, with a checkpoint."""
    damaged: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> list[Path]:
        """Newest first: the names have equal lengths."""
        return sorted((self.folder / "checkpoints").glob("epoch-*.pt"), reverse=True)

    def start(self, prepare: Callable[[], None] = lambda: None) -> Run:
        """Starts the search, or resumes it where it has a checkpoint."""
        begun = ["--resume", str(self.folder)] if self.checkpoints else [*self.search, "--out", str(self.folder)]
        return Run(begun, self.log, prepare)

    def strike(self, number: int) -> None:
        """Runs the search until a signal stops it at a random moment."""
        run = self.start()
        moment = self.random.randint(-1, STEPS_PER_EPOCH * EPOCHS)
        run.signal_at(number, moment, self.random.random() * 0.05)
        status = run.wait()
        self._note(run)
        self.ended |= status == 0
        self.whole = status == 128 + number
        require(status in (0, -number, 128 + number), run, f"status {status} after signal {number}")
        if self.whole:
            require("To go on: python -m asose_fast.train --resume" in run.said(), run, "no word on how to go on")

    def _note(self, run: Run) -> None:
        require("Traceback" not in run.said(), run, "a traceback")
        self.steps = max(self.steps, run.steps)


def require(holds: bool, run: Run, what: str) -> None:
    """Raises Breach, with what the run has said."""
    if not holds:
        raise Breach(f"{what}\n{run.said()}")


def kill(attempt: Attempt) -> None:
    attempt.strike(signal.SIGKILL)


def terminate(attempt: Attempt) -> None:
    attempt.strike(signal.SIGTERM)


def kill_while_writing(attempt: Attempt) -> None:
    """SIGKILL at a random call that makes a file durable, renames, links or removes one; a file to be synced is cut."""
    fatal, cut = attempt.random.randrange(attempt.file_operations), attempt.random.random()

    def strike(number: int, call: str, target: object) -> None:
        if number == fatal:
            if call == "fsync" and isinstance(target, int) and os.fstat(target).st_size and not _is_folder(target):
                os.ftruncate(target, int(cut * os.fstat(target).st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    run = attempt.start(lambda: at_file_operations(strike))
    status = run.wait()
    attempt._note(run)
    require(status == -signal.SIGKILL, run, f"status {status} of a run to be killed")


def fill_disk(attempt: Attempt) -> None:
    """A disk that is full at a random moment."""
    size = attempt.random.randint(4096, attempt.disk_bytes)
    attempt.resize(size)
    run = attempt.start()
    status = run.wait()
    attempt.resize(None)
    attempt._note(run)
    errors = [line for line in run.said().splitlines() if line.startswith("error: ")]
    require(status in (0, 2) and len(errors) == (status == 2), run, f"status {status} with {size} bytes free")
    attempt.ended = not status
    if status:
        require(re.search("No space left on device|File too large", errors[0]) is not None, run, "no cause is named")


def truncate(attempt: Attempt) -> None:
    """A random number of the newest checkpoints are cut at random places."""
    _damage(attempt, lambda content: content[: attempt.random.randrange(len(content))])


def flip_bits(attempt: Attempt) -> None:
    """One to eight bits of each of them are flipped: half of the time in the first bytes, which hold the checksum."""

    def flipped(content: bytes) -> bytes:
        damaged = bytearray(content)
        last = attempt.random.choice((90, len(content)))
        bits = attempt.random.sample(range(8 * last), attempt.random.randint(1, 8))
        for bit in bits:
            damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    _damage(attempt, flipped)


def _damage(attempt: Attempt, change: Callable[[bytes], bytes]) -> None:
    attempt.strike(attempt.random.choice((signal.SIGKILL, signal.SIGTERM)))
    found = attempt.checkpoints
    victims = found[: attempt.random.randint(1, len(found))] if found else []
    for path in victims:  # in place, so that every name of the file is damaged
        path.write_bytes(change(path.read_bytes()))
    attempt.damaged = tuple(path.name for path in victims)


KINDS = {
    "SIGKILL": kill,
    "SIGTERM": terminate,
    "SIGKILL while writing": kill_while_writing,
    "full disk": fill_disk,
    "truncated checkpoint": truncate,
    "flipped bits": flip_bits,
}


def at_file_operations(act: Callable[[int, str, object], None]) -> None:
    """Calls `act(number, call, first argument)` ahead of every call that syncs, renames, links or removes a file."""
    count = iter(range(sys.maxsize))

    def watched(name: str) -> None:
        original = getattr(os, name)

        def call(target: object, *others: object, **keywords: object) -> object:
            act(next(count), name, target)
            return original(target, *others, **keywords)

        setattr(os, name, call)

    for name in ("fsync", "replace", "link", "unlink"):
        watched(name)


def _is_folder(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").is_dir()


def judge(attempt: Attempt, expected: Outputs) -> str:
    """Resumes a disturbed run and compares its end. Raises Breach."""
    found = attempt.checkpoints
    good = [path for path in found if path.name not in attempt.damaged]
    resuming = Run(["--resume", str(attempt.folder)], attempt.log)
    status, said = resuming.wait(), resuming.said()
    require("Traceback" not in said, resuming, "a traceback")
    outcome = ENDED if attempt.ended and not attempt.damaged else IDENTICAL
    if not good:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        require(status == 2 and len(errors) == 1, resuming, f"status {status} without a good checkpoint")
        if found:
            require(all(path.name in errors[0] for path in found), resuming, "not every damaged checkpoint is named")
            return REFUSED
        require("start the run anew" in errors[0], resuming, "nothing is said of starting anew")
        resuming = Run([*attempt.search, "--out", str(attempt.folder)], resuming.log)
        status, outcome = resuming.wait(), ANEW
    else:
        require(status == 0, resuming, f"status {status} on resuming")
        _check_position(attempt, good[0], resuming)
        warned = {
            name
            for line in said.splitlines()
            if line.startswith("warning: ")
            for name in attempt.damaged
            if name in line
        }
        require(warned == set(attempt.damaged), resuming, "not every damaged checkpoint is named")
    require(status == 0, resuming, f"status {status} at the end")
    reached = Outputs.of(attempt.folder)
    for field in dataclasses.fields(Outputs):
        same = getattr(reached, field.name) == getattr(expected, field.name)
        require(same, resuming, f"{field.name} differ from those of the undisturbed run")
    return outcome


def _check_position(attempt: Attempt, newest_good: Path, resuming: Run) -> None:
    """That it went on from the newest good checkpoint, and that no more was lost than promised."""
    match = re.search(r"resuming .* after (\d+) of \d+ epochs and (\d+) steps", resuming.said())
    require(match is not None, resuming, "no word on where it goes on")
    assert match is not None
    epoch, step = int(match[1]), int(match[2])
    named = f"epoch-{epoch:04d}-step-{step:06d}.pt"
    require(newest_good.name == named, resuming, f"it went on from {named}, not from {newest_good.name}")
    if not attempt.damaged:
        lost = attempt.steps - (epoch * STEPS_PER_EPOCH + step)
        bound = 0 if attempt.whole else EVERY
        require(lost <= bound, resuming, f"{lost} steps are lost, more than {bound}")


@contextlib.contextmanager
def small_disks(folder: Path) -> Iterator[Callable[[int | None], None]]:
    """A disk in memory, in `folder`, whose free bytes can be set; without the right to mount, a limit to file sizes.

    The first gives ENOSPC, the second EFBIG.
    """
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size or limits[0], limits[1]))
        return

    def resize(free: int | None) -> None:
        disk = os.statvfs(folder)
        size = 2**28 if free is None else (disk.f_blocks - disk.f_bfree) * disk.f_frsize + free
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def campaign(numbers: range, seed: int, search: list[str], console: Console) -> int:
    """Disturbs the runs of these numbers, the kinds in turn, and prints what became of them. Returns the breaches."""
    counts: Counter[tuple[str, str]] = Counter()
    breaches = 0
    with (
        tempfile.TemporaryDirectory() as temporary,
        tempfile.NamedTemporaryFile() as log,
        small_disks(Path(temporary)) as resize,
    ):
        scratch = Path(temporary)
        expected, operations, size = _undisturbed(scratch / "undisturbed", Path(log.name), search)
        for number in numbers:
            kind = list(KINDS)[number % len(KINDS)]
            chance = random.Random(f"{seed}/{number}")
            attempt = Attempt(scratch / f"run{number}", Path(log.name), chance, search, operations, size, resize)
            try:
                KINDS[kind](attempt)
                if chance.random() < 0.3 and not attempt.damaged and not attempt.ended and attempt.checkpoints:
                    attempt.strike(signal.SIGKILL)
                outcome = judge(attempt, expected)
            except Breach as breach:
                breaches += 1
                outcome = BREACH
                console.print(f"run {number} ({kind}): {breach}", markup=False, highlight=False, soft_wrap=True)
            counts[kind, outcome] += 1
            shutil.rmtree(attempt.folder, ignore_errors=True)
    table = Table("disturbed by", "runs", *OUTCOMES, title=f"{len(numbers)} runs, seed {seed}: {breaches} breaches")
    for kind in KINDS:
        row = [counts[kind, outcome] for outcome in OUTCOMES]
        table.add_row(kind, str(sum(row)), *map(str, row))
    console.print(table)
    return breaches


def _undisturbed(folder: Path, log: Path, search: list[str]) -> tuple[Outputs, int, int]:
    """The end to compare with, the number of its file operations and its size on the disk."""
    counted = folder.with_suffix(".count")

    def prepare() -> None:
        at_file_operations(lambda number, *_: counted.write_text(str(number + 1)) and None)

    run = Run([*search, "--out", str(folder)], log, prepare)
    if status := run.wait():
        raise SystemExit(f"the undisturbed run ended with status {status}:\n{run.said()}")
    records = Outputs.of(folder)
    if sum(bool(record.get("growth")) for record in records.metrics) == 0:
        raise SystemExit("the network does not grow in the undisturbed run: the campaign would not cover it")
    size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    shutil.rmtree(folder)
    return records, int(counted.read_text()), size


def main() -> int:
    """Runs the campaign that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.faults", description=__doc__)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every event that a resumed run did again
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to repeat one")
    known, further = parser.parse_known_args()
    numbers = range(known.first, known.first + known.runs)
    return int(campaign(numbers, known.seed, [*options(**SEARCH), *further], Console(width=110)) > 0)


if __name__ == "__main__":
    sys.exit(main())

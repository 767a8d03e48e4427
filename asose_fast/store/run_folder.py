"""A command claims the folder that it writes into, and keeps what is there already."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from asose_fast.store.checkpoint import CheckpointError

LOCK = ".lock"
TRACKED = "tracked.json"
"""A run that a service for experiments follows remembers here which one does, and under what name."""
WRITTEN = (
    "config.yaml",
    "metrics.jsonl",
    "genotype.json",
    "model.safetensors",
    "network.pt",
    "summary.json",
    "tested.json",
    "retrained.json",
    "report.html",
    TRACKED,
    "checkpoints/epoch-*-step-*.pt",
    "checkpoints/last.pt",
    "checkpoints/supernet.pt",
    "tensorboard/events.out.tfevents.*",
    "compare/compare.json",
    "compare/*/genotype.json",
    "compare/*/model.safetensors",
    "compare/*/checkpoints/*.pt",
    "front/front.json",
    "front/*/genotype.json",
    "front/*/model.safetensors",
    "front/*/checkpoints/*.pt",
)
"""The commands write these files into a run folder."""
ADVICE = "give another --out, or --overwrite to replace it"
_TEMPORARY = re.compile(r"\..+\.\d+")
"""A killed process leaves a file of such a name, not written to its end (`checkpoint.write_atomically`)."""
_locks: set[int] = set()


@contextlib.contextmanager
def claimed(folder: Path, *, new: bool = False) -> Iterator[Path]:
    """Claims a folder: nobody else can while the block runs. What is made here and stays empty is removed after it.

    Args:
        folder: is made where it is not there.
        new: has the folder made in any case, under the first of NAME, NAME-2, NAME-3, ... that is not there.

    Raises BlockingIOError where another command writes into the folder, CheckpointError where it cannot be made.
    """
    with _made(folder.parent), contextlib.ExitStack() as stack:
        if new:
            names = itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2)))
            folder = next(path for path in map(folder.with_name, names) if _make(path))
            stack.callback(_remove_empty, [folder])
        else:
            stack.enter_context(_made(folder))
        stack.enter_context(locked(folder / LOCK, folder))
        if not (checkpoints := folder / "checkpoints").exists():
            stack.callback(_remove_empty, [checkpoints])  # of a command that fails before its first checkpoint
        yield folder


@contextlib.contextmanager
def claimed_file(path: Path) -> Iterator[None]:
    """Claims a file in the same way, in a folder that is made for it. Raises as `claimed`."""
    with _made(path.parent), locked(path.with_name(f".{path.name}{LOCK}"), path):
        yield


@contextlib.contextmanager
def locked(lock: Path, what: Path) -> Iterator[None]:
    """Holds a lock, which the kernel drops with the process, however that ends.

    Raises BlockingIOError where another process holds it. The error names `what`, the file or folder that is locked.
    """
    descriptor = _taken(lock, what)
    _locks.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _locks:  # not in a forked child
            _locks.remove(descriptor)
            with contextlib.suppress(OSError):  # the file alone locks nothing
                lock.unlink()
            os.close(descriptor)


def _taken(lock: Path, what: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(f"another command is writing {what}: wait for its end, or name another") from None
        except OSError:  # the file system has no locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # who held the lock has removed the file in between


def _let_go() -> None:
    """Gives up the locks in a forked worker, which would keep those of its parent for as long as it lives."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


def require_empty(folder: Path, advice: str = ADVICE) -> None:
    """Raises FileExistsError where the folder holds a file, or a folder with one."""
    there = sorted(path.name for path in folder.iterdir() if path.name != LOCK and _holds_files(path))
    if there:
        listed = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise FileExistsError(f"{folder} is not empty, it holds {listed}: {advice}")


def require_absent(paths: Iterable[Path], advice: str = ADVICE) -> None:
    """Raises FileExistsError for the first of the files that is there."""
    for path in paths:
        if os.path.lexists(path):
            raise FileExistsError(f"cannot write {path}, which is there already: {advice}")


def clear(folder: Path) -> None:
    """Removes what a run, a retraining or a derivation has left in a folder, and nothing else. Raises OSError."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()


def reopen(folder: Path) -> None:
    """Removes the settings and the results of a run that goes on under others; it writes them anew. Raises OSError."""
    for name in ("config.yaml", "summary.json", "tested.json"):
        (folder / name).unlink(missing_ok=True)


def _holds_files(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        return any(map(_holds_files, path.iterdir()))
    return not _TEMPORARY.fullmatch(path.name)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder, and afterwards removes what of it was made here and has stayed empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise CheckpointError(
            f"cannot make {folder.absolute()}: {error.strerror or error}. Give another folder"
        ) from error
    try:
        yield
    finally:
        _remove_empty(missing)


def _make(folder: Path) -> bool:
    """Makes a folder. Returns whether it was not there before."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise CheckpointError(
            f"cannot make {folder.absolute()}: {error.strerror or error}. Give another folder"
        ) from error
    return True


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, of which the innermost comes first, up to one that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()

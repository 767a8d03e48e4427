"""Threads work on many images (Pillow releases the GIL while it decodes), with a progress bar when it takes long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

_CHUNK = 64
_LONG = 5_000


def in_threads(work: Callable[[range], Result], count: int, title: str) -> Iterator[Result]:
    """Yields `work` of consecutive ranges that cover 0 to `count`, in order. The bar shows in a terminal only."""
    # Who imports the package may never read an image, and rich takes longer than all of the package.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from asose_fast.terminal import make_console

    chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = count < _LONG or not console.is_terminal
    with (
        Progress(*columns, console=console, transient=True, disable=hidden) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task(title, total=count)
        for chunk, result in zip(chunks, pool.map(work, chunks), strict=True):
            yield result
            progress.advance(task, len(chunk))

"""Threads work on many images (Pillow releases the GIL while it decodes), with a progress bar when it takes long."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Result = TypeVar("Result")

_CHUNK = 64
_LONG = 5_000
_AHEAD = 2
"""So many chunks for each thread are begun before the first of them is asked for."""


def in_threads(work: Callable[[range], Result], count: int, title: str) -> Iterator[Result]:
    """Yields `work` of consecutive ranges that cover 0 to `count`, in order. The bar shows in a terminal only.

    Results wait only for a few chunks, so that their memory does not grow with `count` where they are taken slowly.
    """
    # Who imports the package may never read an image, and rich takes longer than all of the package.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from asose_fast.terminal import make_console

    chunks = (range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK))
    threads = os.cpu_count() or 1
    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = count < _LONG or not console.is_terminal
    with (
        Progress(*columns, console=console, transient=True, disable=hidden) as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        task = progress.add_task(title, total=count)
        begun = deque((chunk, pool.submit(work, chunk)) for chunk in islice(chunks, _AHEAD * threads))
        while begun:
            chunk, future = begun.popleft()
            yield future.result()
            begun.extend((following, pool.submit(work, following)) for following in islice(chunks, 1))
            progress.advance(task, len(chunk))

"""How fast are images read that are too many for the memory, and how much memory does that take?

`python -m benchmarks.streaming imagefolder:PATH` prints the rate of every tenth of an epoch, and the memory of the
process.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from asose_fast.data import DataConfig, load_data


def resident() -> float:
    """Returns the MB of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    """Reads the settings and some epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--memory_limit_gb", type=float, default=0.0)
    parser.add_argument("--no_cache", action="store_true", help="decode anew in every epoch")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    config = DataConfig(
        options.dataset,
        image_size=options.image_size,
        memory_limit_gb=options.memory_limit_gb,
        cache_root=None if options.no_cache else DataConfig.cache_root,
        workers=options.workers,
    )
    print(f"resident before: {resident():.0f} MB", flush=True)
    for purpose in ("first", "again") if not options.no_cache else ("first",):
        start = time.perf_counter()
        data = load_data(config, 64, 0, torch.device("cpu"))
        print(
            f"loaded {purpose} in {time.perf_counter() - start:.1f} s, {resident():.0f} MB; {data.storage}", flush=True
        )
    tenth = max(1, data.train.num_batches() // 10)
    for epoch in range(options.epochs):
        start, seen = time.perf_counter(), 0
        for number, (_, y) in enumerate(data.train.batches(epoch), start=1):
            seen += len(y)
            if number % tenth == 0:
                seconds = time.perf_counter() - start
                print(f"epoch {epoch}, batch {number}: {seen / seconds:.0f} images/s, {resident():.0f} MB", flush=True)
                start, seen = time.perf_counter(), 0


if __name__ == "__main__":
    main()

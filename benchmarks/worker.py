"""A process that times one commit's cases when it is told to; `benchmarks.compare` has one for each commit.

Requests and answers are lines of JSON. {"prepare": CASE} makes a case ready; {"run": N} times N calls after one that
is not timed, and answers {"seconds": [S, ...]}. What goes wrong is answered as {"error": MESSAGE}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the package prints goes to stderr
    run: Any = None

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal run
        if "prepare" in request:
            from benchmarks.cases import CASES

            run = None
            torch.manual_seed(0)
            run = CASES[request["prepare"]]()
            run()
            return {"package": str(Path(sys.modules["asose_fast"].__file__ or "").parent)}
        run()
        seconds = []
        for _ in range(request["run"]):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()

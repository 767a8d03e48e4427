"""How a command of asose_fast is written here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

SCRIPT = "asose-fast"


def spelled(command: str = "", processes: int | None = None) -> str:
    """`command`, or the program itself, as the user can give it: what this process was begun with decides.

    That is the script `asose-fast`, with its path where a shell would not find it, or `python -m asose_fast`. Begun
    with anything else, the answer is the module of the command, `python -m asose_fast.train`. `processes`: how many
    torchrun is to begin on this machine, if it is.
    """
    begun, torchrun = Path(sys.argv[0]), f"torchrun --nproc_per_node {processes} "
    if begun.stem == SCRIPT:
        found = shutil.which(SCRIPT)
        script = SCRIPT if found and Path(found).resolve() == begun.resolve() else shlex.quote(str(begun))
        return f"{f'{torchrun}--no-python ' if processes else ''}{script} {command}".rstrip()
    package = begun == Path(__file__).with_name("__main__.py") or command in ("", "search")  # which are no modules
    return f"{torchrun if processes else 'python '}-m asose_fast{' ' if package else '.'}{command}".rstrip()

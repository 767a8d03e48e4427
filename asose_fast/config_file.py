"""`--config FILE` of a command."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from asose_fast import files


class ConfigFile(ActionConfigFile):
    """An action that reads a YAML file of options. Raises ValueError for what is none, and OSError for a huge one."""

    def __call__(self, parser: ArgumentParser, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            if os.path.isfile(values):
                files.parse_yaml(files.read(Path(values), files.MOST_SETTINGS))
            super().__call__(parser, cfg, values, option_string)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the file of --config cannot be read as YAML: {error} ({values})") from error

"""With which settings a run was computed, on what, and in which settings several differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from asose_fast.config import Config
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.presets import IMAGES
from asose_fast.report import svg
from asose_fast.report.run import Run


def settings(run: Run) -> list[tuple[str, str, str]]:
    """Returns name, value and default of the settings that are not the default of what began the run."""
    if not run.config:
        return []
    try:
        defaults = _defaults(run)
    except (TypeError, ValueError):
        defaults = Config().to_dict()
    return [
        (name, _said(value), _said(defaults[name]) if name in defaults else "unknown in this release")
        for name, value in run.config.items()
        if name not in defaults or value != defaults[name]
    ]


def _defaults(run: Run) -> dict[str, Any]:
    if run.kind == "training":
        return dataclasses.asdict(RetrainConfig())
    space = run.config.get("space", "chain")
    if run.kind == "search":  # begun by a command, whose defaults are not those of Config
        return {**Config(**{**IMAGES, "space": space}).to_dict(), "space": IMAGES["space"]}
    return Config(space=space).to_dict()


def environment(run: Run) -> list[tuple[str, str]]:
    """Says with what the run was computed, and on what."""
    found: dict[str, object] = {"folder": run.name}
    classes = run.genotype.get("classes")
    if isinstance(classes, list):
        shown = [str(name) for name in classes[:20]] + (["…"] if len(classes) > 20 else [])
        found[f"{len(classes)} classes"] = ", ".join(shown)
    if size := run.genotype.get("image_size"):
        found["image size"] = f"{size} {svg.TIMES} {size}"
    found |= {
        "asose_fast" if name == "release" else name: value
        for name, value in run.provenance.items()
        if name not in ("data", "sources")
    }
    for name in ("version", "torch", "device", "threads", "processes"):
        if name in run.summary:
            found["asose_fast" if name == "version" else name] = run.summary[name]
    found |= {f"digest of the {name}": run.provenance[name] for name in ("data", "sources") if name in run.provenance}
    return [(name, _said(value)) for name, value in found.items()]


def unlike(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the settings that are not the same in all runs."""
    names = dict.fromkeys(name for config in configs for name in config)
    kinds = {"keep_validation" in config for config in configs}
    if len(kinds) > 1:  # a search and a training from scratch: what only one of them has says nothing
        names = {name: None for name in names if all(name in config for config in configs)}
    return [
        (name, [_said(config[name]) if name in config else svg.NONE for config in configs])
        for name in names
        if any(name not in config or config[name] != configs[0].get(name) for config in configs)
    ]


def _said(value: object) -> str:
    """Words a value as YAML would have it, nearly."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

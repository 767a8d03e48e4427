"""Run folders that no search has written: as many epochs, layers and odd names as a test wants."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import yaml

from asose_fast.config import Config
from asose_fast.engine.phases import phase_at, plan

VOID = {"meta", "br", "link", "img", "hr", "input"}
OPERATIONS = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")


def records(config: Config, epochs: int | None = None, layers: int = 3) -> list[dict]:
    """What metrics.jsonl would hold; the network grows deeper after the second epoch of growth, at block 1."""
    phases, draw, found = plan(config), random.Random(0), []
    for epoch in range(epochs or phases[-1].end):
        phase = phase_at(phases, epoch)
        entropy = [draw.random() for _ in range(layers)]
        found.append(
            {
                "epoch": epoch + 1,
                "phase": phase.name,
                "train_loss": 2 / (epoch + 1),
                "train_accuracy": 1 - 0.9 / (epoch + 1),
                "valid_accuracy": 1 - 0.8 / (epoch + 1),
                "temperature": 1.0,
                "entropy": sum(entropy) / layers,
                "max_weight": 0.5,
                "entropy_by_layer": entropy,
                "max_weight_by_layer": [draw.random() for _ in range(layers)],
                "path": [draw.choice(OPERATIONS) for _ in range(layers)],
                "curvature": None,
                "batch_size_errors": 0,
                "seconds": 2.0,
                "images_per_second": 1000.0 + epoch,
                "health": [{"name": "architecture entropy", "value": 0.5, "bound": "< 1.8", "ok": epoch != 1}],
            }
        )
        if phase.name == "growth":
            found[-1]["growth"] = None
            if epoch == phase.first + 1:
                found[-1]["growth"] = {"kind": "deeper", "position": 1, "depth": layers + 1}
                layers += 1
    return found


def write_run(folder: Path, found: list[dict], config: Config, **summary: object) -> Path:
    """A run folder with these metrics, and, where there is any, this summary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Page(HTMLParser):
    """The elements of a page, checked to be closed in the order in which they were opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.words.append(" ".join(data.split()))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)

"""`--format module` writes a Python file that needs torch alone, and its weights beside it."""

from __future__ import annotations

import importlib.util
import io
import tempfile
from pathlib import Path

import torch
from torch import nn

from asose_fast.export.source import model_source
from asose_fast.space.genotype import Genotype
from asose_fast.space.network import Network
from asose_fast.store.networks import MODULE

CODE, WEIGHTS = MODULE, ".pt"


def encode(genotype: Genotype, network: Network, with_normalization: bool) -> dict[str, bytes]:
    """Returns the content of both files, by the ends of their names. Raises as `model_source`."""
    source = model_source(genotype, network, with_normalization)
    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    return {CODE: source.encode(), WEIGHTS: weights.getvalue()}


def decode(files: dict[str, bytes]) -> nn.Module:
    """Returns what `load()` of the file gives."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in files.items():
            (Path(folder) / f"model{suffix}").write_bytes(content)
        spec = importlib.util.spec_from_file_location("model", Path(folder) / f"model{CODE}")
        assert spec
        assert spec.loader
        model = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(model)
        network: nn.Module = model.load()
        return network

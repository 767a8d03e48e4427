"""`--format onnx` writes an ONNX model, by torch's exporter."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.export import pt2
from asose_fast.store.networks import INPUT, ONNX, OUTPUT

SUFFIX = ONNX
NEEDS = ("onnx", "onnxscript", "onnxruntime")
"""The export needs these packages, beyond those of asose_fast."""


def encode(plain: nn.Module, images: Tensor, metadata: dict[str, Any]) -> dict[str, bytes]:
    """Returns the content of the file, by the end of its name. `metadata` is in its metadata_props, as JSON."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec\)` is deprecated", FutureWarning)  # torch, of torch
        exported = torch.onnx.export(
            pt2.program(plain, images),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            dynamo=True,
            verbose=False,
        )
    assert exported
    exported.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    content: bytes = exported.model_proto.SerializeToString()
    return {SUFFIX: content}


def decode(files: dict[str, bytes]) -> Callable[[Tensor], Tensor]:
    """Returns the model in the file, run by ONNX Runtime."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(files[SUFFIX], providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

from __future__ import annotations

from tests.ops.cases import Images


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    return {"total_norm": {"tensors": [images.table(), images.table(images.channels)]}}

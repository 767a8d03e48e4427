"""Networks of repeated cells, whose edges are mixed operations: the spaces of DARTS and of NAS-Bench-201."""

from asose_fast.space.cells.network import CellNetwork
from asose_fast.space.cells.spec import CellNetworkSpec, Edge

__all__ = ["CellNetwork", "CellNetworkSpec", "Edge"]

"""The spaces of DARTS and of NAS-Bench-201 are networks of repeated cells, whose edges are mixed operations."""

from asose_fast.space.cells.network import CellNetwork
from asose_fast.space.cells.spec import CellNetworkSpec, Edge

__all__ = ["CellNetwork", "CellNetworkSpec", "Edge"]

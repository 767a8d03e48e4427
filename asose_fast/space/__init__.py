"""The search space has candidate operations, the mixed operation, blocks and the network. It knows nothing of
phases."""

from asose_fast.space.block import BlockSpec, EvolvableBlock
from asose_fast.space.candidates import CANDIDATES, build_candidate
from asose_fast.space.mixed import MixedOp
from asose_fast.space.network import Network, NetworkSpec

__all__ = [
    "CANDIDATES",
    "BlockSpec",
    "EvolvableBlock",
    "MixedOp",
    "Network",
    "NetworkSpec",
    "build_candidate",
]

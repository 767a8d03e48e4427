"""Sequences of modules on kernels: convolutions with the ReLU before them, norms with their pooling, poolings, heads.

A file has a part that stands for one or more modules, and chooses between kernel and modules when it sees a tensor.
"""

from asose_fast.space.parts.part import Part
from asose_fast.space.parts.sequence import on_kernels, run_on_kernels

__all__ = ["Part", "on_kernels", "run_on_kernels"]

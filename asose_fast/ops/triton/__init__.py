"""Triton kernels, imported only when they run."""

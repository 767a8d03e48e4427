"""The operators in plain PyTorch: `reference`, the differentiable formula, and the backend that runs everywhere."""

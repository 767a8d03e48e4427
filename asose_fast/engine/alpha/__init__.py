"""The architecture: alpha, draws from it, its gradient, and what is chosen from it."""

"""The search: its state, its task, its loop, and what they are made of."""

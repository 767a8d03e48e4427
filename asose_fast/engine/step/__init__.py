"""One step of a training, and what it is made of."""

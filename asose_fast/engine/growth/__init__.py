"""Growth: when and how a network grows."""

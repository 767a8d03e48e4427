"""Whether a search goes well, and what is done where it does not."""

"""Speed, as ratios measured in one process (DESIGN section 9). Run with `make bench`; one file a question."""

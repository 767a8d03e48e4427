"""What a run found is compared with random networks and a plain one of its size (docs/compare.md)."""

"""How a derived network is trained, in the phase optimize and from scratch (docs/concepts.md)."""

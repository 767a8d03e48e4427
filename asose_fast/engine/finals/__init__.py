"""How the networks that may be derived are trained against each other (docs/derive.md)."""

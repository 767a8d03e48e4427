"""One search gives several networks, from small ones to the found one (docs/front.md)."""

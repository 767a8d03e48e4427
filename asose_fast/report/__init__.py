"""A report of a run is one HTML file, and so is one of several runs compared (docs/report.md)."""

"""Reports of runs: one HTML file each, and one for several compared (docs/report.md)."""

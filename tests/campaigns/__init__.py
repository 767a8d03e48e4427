"""Campaigns: long random tests, each a command of its own with a small sample in the suite."""

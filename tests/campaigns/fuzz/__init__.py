"""Fuzzing: the loaders, the command line, the data folders and the operators take whatever they are given, or refuse it
with one clear error of a documented type; they do not crash and do not hang."""

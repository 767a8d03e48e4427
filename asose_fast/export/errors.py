"""This error says why a network could not be exported."""


class ExportError(RuntimeError):
    """A network cannot be exported, or what came out is not the same function. Nothing was written then."""

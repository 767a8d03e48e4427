"""These errors are raised when the data or their settings cannot be used. The message says what is wrong and what is
right."""


class DataError(ValueError):
    """The data cannot be used, or a setting of theirs cannot."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data are not where they were looked for."""

"""What is raised when the data or their settings cannot be used: the message says what is wrong and what is right."""


class DataError(ValueError):
    """The data, or a setting of theirs, cannot be used."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data are not where they were looked for."""

"""Errors of the files that users give, which a tool prints in one line."""


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, asks for more than data, or is of another arch."""

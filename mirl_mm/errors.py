"""What a user can put right, told in one line: one family of errors."""


class UserError(ValueError):
    """Input or a setting that cannot be used; it says what was given and what is accepted."""


class CheckpointError(UserError):
    """A file that is no checkpoint, is damaged, asks for more than data, or is of another arch."""


class ResumeError(UserError):
    """A checkpoint that this run cannot go on from."""


class PackedError(UserError):
    """A packed folder is incomplete or damaged; the message names the file."""


class NonFiniteError(UserError):
    """Loss or gradients are not finite; the message says where, and what to go back to."""


class BadImagesError(UserError):
    """More images cannot be read than the data set allows."""

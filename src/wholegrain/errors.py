"""The errors that a user, not a programmer, has to act on."""

class UserError(Exception):
    """Input that cannot be used: what is wrong, where (file, record, field), what to do. Exit code 2.

    The message is one sentence fit to print as it is; the command line shows it without a traceback.
    """


class MachineError(Exception):
    """The machine, not the input, failed (a full disk, a lost device): what to do. Exit code 1."""

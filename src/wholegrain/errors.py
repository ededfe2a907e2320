"""The errors that a user, not a programmer, has to act on: one sentence each."""

import re

LONGEST = 1000
"""Letters of a sentence; longer ones lose their middle."""


def one_line(text: str) -> str:
    """Text on one line, without what a terminal would obey, and of bounded length: names and values in it come from files.

    Example:
        >>> one_line("no\\n such \\x1b[31m")
        'no such \\\\x1b[31m'
    """
    text = text.strip()
    if not text.isprintable():
        text = re.sub(r"\s*[\r\n]+\s*", " ", text)
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"


class UserError(Exception):
    """Input that cannot be used: what is wrong, where (file, record, field), what to do. Exit code 2.

    The message is one sentence fit to print as it is; the command line shows it without a traceback.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(one_line(str(sentence)))


class MachineError(Exception):
    """The machine, not the input, failed (a full disk, a lost device): what to do. Exit code 1."""

    def __init__(self, sentence: object = "") -> None:
        super().__init__(one_line(str(sentence)))

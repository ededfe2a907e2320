"""The errors that a user, not a programmer, has to act on, and what they say of a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Input that cannot be used: what is wrong, where (file, record, field), what to do. Exit code 2.

    The message is one sentence fit to print as it is; the command line shows it without a traceback.
    """


class MachineError(Exception):
    """The machine, not the input, failed (a full disk, a lost device): what to do. Exit code 1."""


def closest(wrong: str, right: Sequence[str]) -> str:
    """``did you mean "batch"?``-part of a sentence, or the list of all valid names if none is near.

    Capitals, hyphens, underscores, blanks and dots make no difference between names.

    Example:
        >>> [closest(name, ["ce_clip", "clip"]) for name in ("CE-CLIP", "ceclip", "Clip")]
        ['did you mean "ce_clip"?', 'did you mean "ce_clip"?', 'did you mean "clip"?']
    """
    plain = {_plain(name): name for name in right}
    near = difflib.get_close_matches(_plain(wrong), plain, n=1, cutoff=0.5)
    return f'did you mean "{plain[near[0]]}"?' if near else f"valid are {', '.join(sorted(right))}."


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in "-_ .")

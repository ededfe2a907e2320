"""What the app takes from a visitor, and the one sentence in which it refuses everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wholegrain.data.pictures import BrokenPictureError, upright_rgb
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, read_bytes, shown

MOST_BYTES = 20 * 2**20
"""Of a picture that is dropped."""
MOST_ASPECT = 50
"""Longer side of a picture by its shorter one, by which models resize: a thread of pixels would become gigabytes."""
MOST_CAPTIONS = 20
"""Captions at a time."""
LONGEST = 500
"""Characters of a caption."""
MOST_MODELS = 4
"""Models side by side."""


def picture_at(path: str | None) -> np.ndarray:
    """A dropped picture as uint8 RGB ``[H, W, 3]``, read by the bounded reader of all pictures (:mod:`wholegrain.data.pictures`).

    It is turned upright by its orientation tag, as the browser shows it.

    Raises:
        UserError: there is none, it is too large or too narrow, or it is no picture of a known kind.
    """
    if not path:
        raise UserError("There is no picture yet; drop one, or choose one of those below.")
    name, advice = shown(Path(path).name), "drop another one"
    try:
        pixels_HWC = upright_rgb(read_bytes(path, advice, most=MOST_BYTES))
    except (BrokenPictureError, UnreadableError) as error:
        if isinstance(error, UnreadableError) and error.missing:
            raise UserError("The picture was put away, as all are after ten minutes; drop it again, or choose one of those below.") from None
        problem = error.problem if isinstance(error, UnreadableError) else f"cannot be decoded ({error})"
        raise UserError(f"{name} {problem}; {advice}.") from None
    height, width = pixels_HWC.shape[:2]
    if max(height, width) > MOST_ASPECT * min(height, width):
        raise UserError(f"{name} is {width:,} x {height:,} pixels large, and the longer side may be {MOST_ASPECT} times the shorter; {advice}.")
    return pixels_HWC


def captions_of(text: str) -> list[str]:
    """The captions of a field, one a line, each once; empty lines are passed over.

    Raises:
        UserError: there is none, there are more than :data:`MOST_CAPTIONS`, or one is longer than :data:`LONGEST`.

    Example:
        >>> captions_of("a red cup\\n\\n a blue cup \\na red cup")
        ['a red cup', 'a blue cup']
    """
    lines = (text or "").encode(errors="replace").decode().splitlines()  # half a surrogate pair is no text
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError("There is no caption yet; type one a line.")
    if len(found) > MOST_CAPTIONS:
        raise UserError(f"There are {len(found):,} captions, and at most {MOST_CAPTIONS} are asked at once; take some out.")
    longest = max(found, key=len)
    if len(longest) > LONGEST:
        raise UserError(f"A caption has {len(longest):,} characters, and at most {LONGEST} are read; make it shorter.")
    return found

"""The known name that an unknown one most likely stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(wrong: str, right: Iterable[str], most: int = 1) -> list[str]:
    """Known names like a wrong one, the likeliest first. Capitals, hyphens, spaces and underscores make no difference.

    Example:
        >>> nearest("CE-CLIP", ["clip", "ce_clip"]), nearest("neg", ["negatives", "clip"]), nearest("zebra", ["clip"])
        (['ce_clip'], ['negatives'], [])
    """
    names = {_plain(name): name for name in reversed(list(right))}  # of two that read alike, the first
    told = _plain(wrong)
    begun = [name for name in names if len(told) >= 3 and name.startswith(told)]
    exact = [told] if told in names else []
    found = dict.fromkeys([*exact, *get_close_matches(told, names, n=most, cutoff=0.5), *begun])
    return [names[name] for name in found][:most]


def closest(wrong: str, right: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, or all of them if none is near.

    Example:
        >>> closest("batc", ["batch", "lr"]), closest("zebra", ["batch", "lr"])
        ('did you mean "batch"?', 'valid are batch, lr.')
    """
    names = list(right)
    near = nearest(wrong, names)
    return f'did you mean "{near[0]}"?' if near else f"valid are {', '.join(sorted(names)) or 'none'}."


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold()).strip("_")

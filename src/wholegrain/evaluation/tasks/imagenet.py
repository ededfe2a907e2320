"""ImageNet's 1,000 classes: their WordNet ids in the usual order (timm), CLIP's names for them (open_clip), and the parts that its offspring use."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def wnids(part: str = "") -> tuple[str, ...]:
    """WordNet ids: of all classes, or those of ``a`` (ImageNet-A) or ``r`` (ImageNet-R), 200 each.

    Example:
        >>> len(wnids()), len(wnids("a")), wnids()[0], set(wnids("r")) <= set(wnids())
        (1000, 200, 'n01440764', True)
    """
    name = f"imagenet_{part}_synsets.txt" if part else "imagenet_synsets.txt"
    return tuple(files("timm.data").joinpath("_info", name).read_text(encoding="utf-8").split())


@cache
def names() -> dict[str, str]:
    """WordNet id -> the name that CLIP uses.

    Example:
        >>> names()["n01440764"], len(names())
        ('tench', 1000)
    """
    import open_clip

    return dict(zip(wnids(), open_clip.IMAGENET_CLASSNAMES, strict=True))

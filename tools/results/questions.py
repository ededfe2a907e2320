"""The measures that the pages speak of."""

from __future__ import annotations

from results.measure import (
    HARD_POSITIVES,
    OWN,
    POINTING,
    POINTING_TOKEN,
    POOLED,
    SUGARCREPE,
    TO_CAPTION,
    TO_PICTURE,
    TOKEN,
    false_texts,
    role,
    twins,
    with_grain,
)

__all__ = ["HARD_POSITIVES", "OWN", "POINTING", "POINTING_TOKEN", "POOLED", "SUGARCREPE", "TOKEN", "TO_CAPTION", "TO_PICTURE", "role", "twins"]

ORDER = [twins("relation"), twins("swap_object"), HARD_POSITIVES]
BINDING = [twins("swap_attribute"), twins("swap_fill")]
WORDS = [twins(f"replace_{what}") for what in ("object", "colour", "fill", "size")]
RETRIEVAL = [TO_PICTURE, TO_CAPTION]
GROUNDING = [POOLED, TOKEN]
ROLES = [role(name, branch) for branch, name in enumerate(("overview", "relation", "main_object", "phrase", "background"))]
AXES = [*RETRIEVAL, *ORDER, *BINDING, *WORDS, OWN, *ROLES]
DISTINCT = [axis for axis in AXES if axis is not ROLES[0]]
"""Without the role overview, which is caption to picture once more (but by Holistic's own branch)."""
SHORT = [*RETRIEVAL, twins("relation"), twins("swap_attribute"), HARD_POSITIVES, OWN, ROLES[-1]]
PHOTOS_FALSE = [false_texts("rules"), false_texts("swaps")]
PHOTOS_WHOLE = [*RETRIEVAL, *PHOTOS_FALSE, HARD_POSITIVES]
PHOTOS_GRAIN = [each for measure in PHOTOS_WHOLE for each in (measure, with_grain(measure))]

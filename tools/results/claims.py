"""What the three papers claim, how it is measured here, and whether it holds: a verdict is the interval's, not ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from results.measure import POOLED, TO_CAPTION, TO_PICTURE, TOKEN, Comparison, Measure, interval, role, twins

MARGIN = 0.01
"""A claim that something is *not* lost holds if the interval stays above minus one point."""


@dataclass(frozen=True)
class Claim:
    """A claim as a difference of two methods in one measure.

    Attributes:
        paper, says: who says what, in our words.
        method, than: whose figure is claimed to be the greater one.
        measure: in which figure.
        keeps: the claim is that nothing is lost, rather than that something is gained.
        comparison: the kept competition that has both.
    """

    paper: str
    says: str
    method: str
    than: str
    measure: Measure
    keeps: bool = False
    comparison: str = "set_a"


SPARC, CE_CLIP, HOLISTIC = "SPARC", "CE-CLIP", "Holistic"
BACKGROUND, OVERVIEW = role("background", 4), role("overview", 0)
CLAIMS: Sequence[Claim] = (
    Claim(SPARC, "finer grounding than CLIP (segmentation, table 6), read as it was trained: by the word's token", "sparc", "clip", TOKEN),
    Claim(SPARC, "the same, read by the text's one vector", "sparc", "clip", POOLED),
    Claim(SPARC, "retrieval gains beside the grounding, caption to picture (tables 3 and 10)", "sparc", "clip", TO_PICTURE),
    Claim(SPARC, "the same, picture to caption", "sparc", "clip", TO_CAPTION),
    Claim(SPARC, "sparse weights ground better than dense ones (table 8)", "sparc", "sparc_dense", TOKEN, comparison="ablations"),
    Claim(SPARC, "min-max weights ground better than a softmax (table 8)", "sparc", "sparc_softmax", TOKEN, comparison="ablations"),
    Claim(CE_CLIP, "relations are told apart that CLIP confuses (ARO, VALSE, VL-CheckList)", "ce_clip", "clip", twins("relation")),
    Claim(CE_CLIP, "the same, of swapped objects (SugarCrepe)", "ce_clip", "clip", twins("swap_object")),
    Claim(CE_CLIP, "better than hard negatives in CLIP's own loss (NegCLIP)", "ce_clip", "negclip", twins("relation")),
    Claim(CE_CLIP, "attributes are bound better (ARO attribution, SugarCrepe swaps)", "ce_clip", "clip", twins("swap_attribute")),
    Claim(CE_CLIP, "at no loss of retrieval, picture to caption", "ce_clip", "clip", TO_CAPTION, keeps=True),
    Claim(CE_CLIP, "the intra-modal contrast adds to it (table 4)", "ce_clip", "ce_clip_no_imc", twins("relation"), comparison="ablations"),
    Claim(CE_CLIP, "the ranking adds to it (table 4)", "ce_clip", "ce_clip_no_cmr", twins("relation"), comparison="ablations"),
    Claim(CE_CLIP, "its margin had better adapt than be fixed", "ce_clip", "ce_clip_fixed_margin", twins("relation"), comparison="ablations"),
    Claim(HOLISTIC, "several captions a picture teach more than one", "clip", "clip_one_caption", TO_PICTURE),
    Claim(HOLISTIC, "a branch finds what one vector trained on the same captions does not (background)", "holistic", "clip", BACKGROUND),
    Claim(HOLISTIC, "branches keep what one vector finds (overview)", "holistic", "clip", OVERVIEW, keeps=True),
    Claim(HOLISTIC, "class tokens are better branches than MLPs", "holistic", "holistic_mlp", BACKGROUND, comparison="ablations"),
)  # fmt: skip


def verdict(claim: Claim, kept: dict[str, Comparison]) -> list[str]:
    """A row of the table: paper, claim, figures of both, difference with its interval, verdict."""
    comparison = kept.get(claim.comparison)
    gap = None if comparison is None else comparison.mean(claim.method, comparison.budgets[-1], claim.measure, claim.than)
    if gap is None:
        return [claim.paper, claim.says, claim.measure.title, "", "not measured yet"]
    least = -MARGIN if claim.keeps else 0.0
    holds = "holds" if gap.low > least else "does not hold" if gap.high < least else "not shown"
    return [claim.paper, claim.says, claim.measure.title, interval(gap), holds]

"""``many_to_many`` once more: Holistic CLIP's branches and texts, pair by pair; the best matching by trying every one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import combinations, permutations

import torch
from torch import Tensor

from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.verify.cases import lone_pair
from wholegrain.verify.closed_form import BRANCHES, IMAGES, ClosedForm, all_alike, right_angles
from wholegrain.verify.reference import Samples, cos, cross_entropy, required

VARIANTS = {
    "m2m-role": ManyToManyLoss(roles=("background", "overview", "style", "web")),
    "m2m-positional": ManyToManyLoss(assignment="positional", duplicates="negative"),
    "m2m-argmax": ManyToManyLoss(assignment="argmax"),
    "m2m-all-positive": ManyToManyLoss(roles=("overview", "style"), negatives="all", same_image="positive"),
    "m2m-hungarian": ManyToManyLoss(assignment="hungarian"),
    "m2m-hungarian-positive": ManyToManyLoss(assignment="hungarian", negatives="all", same_image="positive"),
    "m2m-groups": ManyToManyLoss(roles=("web", "style|overview")),
    "m2m-rest": ManyToManyLoss(roles=("web", "*")),
    "m2m-positive": ManyToManyLoss(roles=("overview",), same_image="positive"),
}


def known_breaks(loss: ManyToManyLoss) -> dict[str, str]:
    reads_place = loss.assignment == "positional" or (loss.assignment == "argmax" and loss.negatives == "same_position")
    if loss.assignment == "hungarian" and loss.negatives == "same_position" and loss.duplicates == "ignore":
        return {"duplicates": "which branch a text takes depends on its image and decides whose rival the text is"}
    return {"text_order": "texts have their meaning by their place in an image's list"} if reads_place else {}


def reference(loss: ManyToManyLoss, x: Samples) -> Tensor:
    """The formula of ``losses/many_to_many.py`` in float64, sample by sample."""
    branch, text, scale = required(x.image.branches_BHD), x.text.pooled_ND, x.scale
    position, chosen = _assigned(loss, x, branch)
    each: list[Tensor] = []
    for n in x.true:
        i, b = x.owner[n], chosen[n]
        scope = [m for m in x.true if loss.negatives == "all" or position[m] == position[n]]
        rivals = [scale * cos(branch[i, b], text[m]) for m in scope if not x.left_out(i, m, loss.duplicates)]
        targets = [m for m in scope if x.owner[m] == i] if loss.same_image == "positive" else [n]
        row = torch.stack([cross_entropy(scale * cos(branch[i, b], text[m]), rivals) for m in targets]).mean()
        others = [j for j in x.images if not x.left_out(j, n, loss.duplicates)]
        places = range(branch.shape[1]) if loss.negatives == "all" else [b]
        across = [scale * cos(branch[j, h], text[n]) for j in others for h in places]
        each.append((row + cross_entropy(scale * cos(branch[i, b], text[n]), across)) / 2)
    return torch.stack(each).mean()


def _assigned(loss: ManyToManyLoss, x: Samples, branch: Tensor) -> tuple[dict[int, object], dict[int, int]]:
    """Each true text's position, by which it meets others, and its branch."""
    position: dict[int, object] = {}
    chosen: dict[int, int] = {}
    count, text = branch.shape[1], x.text.pooled_ND
    for n in x.true:
        i, name = x.owner[n], x.role[n]
        earlier = sum(m < n for m in x.captions_of(i))
        listed = [h for role in (name, "*") for h, entry in enumerate(loss.roles) if role in entry.split("|")]
        position[n] = (*listed, name)[0] if loss.assignment == "role" else earlier
        bound = None
        if loss.assignment == "role" and listed and listed[0] < count:
            bound = listed[0]
        if loss.assignment == "positional" and earlier < count:
            bound = earlier
        likeness = [cos(branch[i, h], text[n]).item() for h in range(count)]
        chosen[n] = likeness.index(max(likeness)) if bound is None else bound
    if loss.assignment == "hungarian":
        for i in x.images:
            chosen |= _best_matching(branch[i], {n: text[n] for n in x.captions_of(i)})
        return dict(chosen), chosen
    return position, chosen


def _best_matching(branches: Tensor, texts: dict[int, Tensor]) -> dict[int, int]:
    """The best of all one-to-one matchings, by trying every one; texts that get no branch are not in it."""
    names, number = list(texts), min(len(texts), len(branches))

    def worth(pairs: Iterable[tuple[int, int]]) -> float:
        return sum(cos(branches[h], texts[n]).item() for n, h in pairs)

    every = (
        tuple(zip(some, places, strict=True))
        for some in permutations(names, number)
        for places in combinations(range(len(branches)), number)
    )
    return dict(max(every, key=worth, default=()))


def closed_forms(loss: ManyToManyLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    others = (IMAGES - 1) * (BRANCHES if loss.negatives == "all" else 1)
    value = (math.log(IMAGES) + math.log(1 + others)) / 2
    yield ClosedForm(f"4 images, 3 branches each, all alike: (ln 4 + ln {1 + others}) / 2", all_alike(), value)
    yield ClosedForm("one image and its caption: 0", lone_pair(right_angles()), 0.0)

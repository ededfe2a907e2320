"""The comparisons of methods that ask for noun phrases: tokens stand for the phrases of a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sources
from problem import Problem, unit
from rows import Ours, Row, weighted
from torch import Tensor

from wholegrain.losses.c2lip import C2lipLoss
from wholegrain.losses.siglip import SiglipLoss


def concepts() -> Iterator[Row]:
    """C2LIP: the whole loss, and each of its two terms."""
    pooled, attention = of_phrases(C2lipLoss()), of_phrases(C2lipLoss("attention"))
    name = "siglip + c2lip + 0.01 c2lip image=\"attention\""
    whole = weighted((1.0, of_phrases(SiglipLoss())), (1.0, pooled), (0.01, attention))
    for said, part, ours in ((name, "loss", whole), ("c2lip", "npc_loss", pooled), ('c2lip image="attention"', "xac_loss", attention)):
        yield Row(said, sources.C2LIP, f"C2LIP_Loss, {part}", c2lip(part), ours)


def of_phrases(kind: Any) -> Ours:
    """A loss of ours, whose texts' phrases are their tokens."""

    def value(p: Problem) -> Tensor:
        image, text, pairing = p.features
        share = p.mask_NL / p.mask_NL.sum(1, keepdim=True)
        return kind(image, replace(text, phrases_NKD=p.tokens, phrase_weight_NK=share), pairing, p.scale, p.bias).value

    return value


def c2lip(part: str) -> Any:
    def value(m: Any, p: Problem) -> Tensor:
        owner, place = p.mask_NL.nonzero(as_tuple=True)
        found = m.C2LIP_Loss()(
            unit(p.image),
            unit(p.text),
            p.scale,
            p.bias,
            output_dict=True,
            nounphrases_features=unit(p.tokens)[owner, place],
            nounphrases_indices=owner,
            image_tokens=unit(p.patches),
        )
        return found[part]

    return value

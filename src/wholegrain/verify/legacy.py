"""Variants that are kept to reproduce what others released or wrote, and the checks that they are known to break.

A loss from outside says the same of itself by a class attribute (or property) ``breaks``: a mapping of check to reason. Verify then
requires that exactly these checks fail.
"""

from __future__ import annotations

from typing import Any

_FIRST = "the target is the first hard negative of the batch, whichever that is"
_LISTED = "texts have their meaning by their place in an image's list"
_NEXT = "the positive is the next caption in the image's list"
_HELD = "the scale is not learned from this term, so it gets no gradient"
_COPIES = "the texts of an image's copy are rivals, as the image's own other texts are in the released code"
_SHIFTED = "texts gather patches by their place in the stacked batch, as released: mostly another image's"
_SENT = "of an image's texts only the first in its list meets other images"
_TARGETS = "the targets are constants in the backward pass"
_BALANCED = "the targets are balanced over the whole batch, in which every sample meets every other"
_KEPT = "which patches an image keeps depends on its own texts, and so texts reach whatever the image is compared with"
_BY_ID = "pairs are drawn by hashes of their ids, so that all processes draw the same"
_DRAWN = "which pairs are drawn hangs on their ids, so copies are drawn otherwise"
_CHOSEN = "which branch a text takes depends on its image and decides whose rival the text is"
_FELLOWS = "vectors that have seen both sides are fellow rivals of a third, whatever is known of the two"
_DETACHED = "the alignment weights are constants in the backward pass"


def known_breaks(loss: Any) -> dict[str, str]:
    """Check -> reason, for a packaged loss with its settings; empty for one that keeps everything."""
    if not type(loss).__module__.startswith("wholegrain.losses."):
        return {}
    of_class = _BY_CLASS.get(type(loss).__name__)
    return {} if of_class is None else of_class(loss)


def _imc(loss: Any) -> dict[str, str]:
    found = {"text_order": _FIRST} if loss.variant in ("released", "first_release") else {}
    if loss.variant == "own" and loss.positive == "sibling":
        found["text_order"] = _NEXT
    if loss.variant in ("own", "paper") and loss.scaled and loss.scores == "cosine":
        found["scale"] = _HELD
    return found


def _many_to_many(loss: Any) -> dict[str, str]:
    reads_place = loss.assignment == "positional" or (loss.assignment == "argmax" and loss.negatives == "same_position")
    if loss.assignment == "hungarian" and loss.negatives == "same_position" and loss.duplicates == "ignore":
        return {"duplicates": _CHOSEN}
    return {"text_order": _LISTED} if reads_place else {}


def _sparc(loss: Any) -> dict[str, str]:
    if not loss.detach_weights:
        return {}
    scale_in_weights = loss.weights == "softmax" and loss.similarity == "cosine"
    return {"gradients": _DETACHED} | ({"scale": _DETACHED} if scale_in_weights else {})


def _dreamlip(loss: Any) -> dict[str, str]:
    found = {"duplicates": _COPIES} if loss.rivals == "batch" else {}
    return found | ({"image_order": _SHIFTED, "text_order": _SHIFTED} if loss.patches_of == "released" else {})


def _flair(loss: Any) -> dict[str, str]:
    return {"text_order": _SENT} if loss.others == "first" else {}


def _mgca_prototypes(loss: Any) -> dict[str, str]:
    return {"gradients": _TARGETS, "duplicates": _BALANCED}


def _filip(loss: Any) -> dict[str, str]:
    drops = loss.keep < 1 if loss.keep is not None else loss.variant == "sparc"
    return {"duplicates": _KEPT} if drops and loss.duplicates == "ignore" else {}


def _fsc_local(loss: Any) -> dict[str, str]:
    return {"gradients": _DETACHED} if loss.detach_weights else {}


def _itm(loss: Any) -> dict[str, str]:
    return {"ids": _BY_ID} | ({"duplicates": _DRAWN} if loss.duplicates == "negative" else {})


def _cosmos(loss: Any) -> dict[str, str]:
    return {"text_order": _LISTED} | ({"duplicates": _FELLOWS} if loss.duplicates == "ignore" else {})


_BY_CLASS = {
    "CosmosLoss": _cosmos,
    "ItmLoss": _itm,
    "FscLocalLoss": _fsc_local,
    "FilipLoss": _filip,
    "FlairLoss": _flair,
    "MgcaPrototypesLoss": _mgca_prototypes,
    "DreamlipLoss": _dreamlip,
    "ImcLoss": _imc,
    "ManyToManyLoss": _many_to_many,
    "SparcLoss": _sparc,
}

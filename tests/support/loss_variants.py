"""The variants under which verify tries losses, by name, for tests that try many; references are verify's, too."""

from __future__ import annotations

from typing import Any

from wholegrain.objectives.resolve import packaged
from wholegrain.verify.definitions import definition_named


def variants_of(*losses: str) -> dict[str, Any]:
    """Name -> loss, for all variants of some losses."""
    return {name: loss for each in losses for name, loss in definition_named(each).variants.items()}


def _beyond_tokens(loss: Any) -> bool:
    """SPARC's forms that are tried with the losses that score words against the patches of other images."""
    return loss.rivals != "tokens" or loss.temperature is not None


_SPARC = variants_of("sparc")
_USUAL = variants_of("clip", "siglip", "negclip", "imc", "cmr", "many_to_many", "diversity", "text_conditioned")
ALL = variants_of(*packaged())
USUAL = {name: loss for name, loss in _USUAL.items() if "match" not in loss.needs}
USUAL |= {name: loss for name, loss in _SPARC.items() if not _beyond_tokens(loss)}
FINE_GRAINED = variants_of("filip", "gloria", "mgca", "mgca_prototypes", "dreamlip", "flair", "llip", "whole_and_grain")
FINE_GRAINED |= {name: loss for name, loss in _SPARC.items() if _beyond_tokens(loss)}
MATCHING = {name: loss for name, loss in variants_of("itm", "imc", "cmr").items() if "match" in loss.needs}
NEGATIVES_AND_POSITIVES = variants_of("own_negatives", "fsc_local", "paraphrases", "multi_positive")

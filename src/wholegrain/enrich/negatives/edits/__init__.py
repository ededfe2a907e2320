"""The edits that make a caption false, one file a family. Each function lists what is possible in one caption; nothing is chosen here.

An edit changes exactly one fact. It is listed only if grammar can be kept, if no caption of the picture says what comes in or what may mean
the same, and if the word lists know the words around it; what they do not know is left alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from wholegrain.enrich.negatives.edits.actions import actions
from wholegrain.enrich.negatives.edits.attributes import attributes
from wholegrain.enrich.negatives.edits.counts import counts
from wholegrain.enrich.negatives.edits.objects import objects
from wholegrain.enrich.negatives.edits.relations import relations
from wholegrain.enrich.negatives.edits.swaps import swapped_attributes, swapped_objects
from wholegrain.text.words.source import Source
from wholegrain.text.words.text import Change

Changes = list[Change]
Edits = Callable[[Source, random.Random], Iterator[tuple[str, Changes]]]

EDITS: dict[str, Edits] = {
    "object": objects, "attribute": attributes, "relation": relations, "action": actions, "count": counts,
    "swap_object": swapped_objects, "swap_attribute": swapped_attributes,
}  # fmt: skip
"""Family -> the edits that a caption allows, each with its kind."""

KINDS = (
    "object_being", "object_clothing", "object_place", "object_thing",
    "attribute_colour", "attribute_size", "attribute_age", "attribute_material", "attribute_state", "attribute_texture",
    "relation", "action", "count", "swap_object", "swap_attribute",
)  # fmt: skip
"""The kinds that are made of every caption; ``negation_…`` are made of negated captions (:mod:`~wholegrain.enrich.negatives.negation`)."""


def family(kind: str) -> str:
    """The family that makes a kind.

    Example:
        >>> family("attribute_colour"), family("count")
        ('attribute', 'count')
    """
    return kind.split("_")[0] if kind.startswith(("attribute_", "object_", "negation_")) else kind

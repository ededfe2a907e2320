"""Names of tasks, kinds and figures as people say them."""

from __future__ import annotations

WORDS = {
    "relation": "relations",
    "swap_object": "swapped things",
    "swap_attribute": "swapped attributes",
    "swap_fill": "swapped patterns",
    "replace_object": "another thing",
    "replace_colour": "another colour",
    "replace_fill": "another pattern",
    "replace_size": "another size",
    "object_being": "another being",
    "object_clothing": "other clothes",
    "object_place": "another place",
    "object_thing": "another thing",
    "attribute_colour": "another colour",
    "attribute_size": "another size",
    "attribute_age": "another age",
    "attribute_material": "another material",
    "attribute_state": "another state",
    "attribute_texture": "another texture",
    "action": "another action",
    "count": "another number",
    "negation_object": "a thing denied",
    "negation_attribute": "an attribute denied",
    "negation_relation": "a relation denied",
    "negation_action": "an action denied",
    "negation_count": "a number denied",
    "hard_positives": "true rewordings",
    "picks_caption": "picks the caption",
    "picks_image": "picks the picture",
    "hit_own": "best patch on the own object",
    "hit_other": "best patch on another object",
    "both_win": "both wordings beat the false one",
    "image_retrieval_recall@1": "caption to picture, first",
    "text_retrieval_recall@1": "picture to caption, first",
    "acc1": "right class first",
}
"""A name in code -> what it is called on pages; what is not listed loses its underscores."""


def plain(name: str) -> str:
    """A figure's or a kind's name in words, group after group.

    Example:
        >>> plain("swap_attribute/group_score"), plain("main_object")
        ('swapped attributes, group score', 'main object')
    """
    return ", ".join(WORDS.get(part, part.replace("_", " ")) for part in name.split("/"))

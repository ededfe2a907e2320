"""The page of a captioner: pictures with what is said of them, wrong words marked; one sentence; then the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.show import show
from wholegrain.report.page import page_environment

SIDE = 224
"""Pixels of a picture's longer side."""
MARKS = {
    "hallucinated_objects": "not in the picture",
    "wrong_attributes": "wrong attribute",
    "wrong_numbers": "wrong number",
    "wrong_relations": "wrong relation",
    "wrong_background": "wrong background",
    "unbacked": "in no caption of the picture",
}
"""Kind -> what the mark of such words says."""


@dataclass(frozen=True)
class Part:
    """A stretch of a caption.

    Attributes:
        text: as it stands.
        mark: a key of :data:`MARKS` where it is wrong, else empty.
    """

    text: str
    mark: str = ""

    @property
    def says(self) -> str:
        """What its mark means."""
        return MARKS.get(self.mark, "")


@dataclass(frozen=True)
class CaptionCard:
    """A picture and its caption.

    Attributes:
        uri, width, height: of the picture as it is shown.
        key: of its record.
        parts: the caption.
        left_out: things of the picture that are not named.
        references: what was to be said.
    """

    uri: str
    width: int
    height: int
    key: str
    parts: Sequence[Part]
    left_out: Sequence[str]
    references: Sequence[str]


def marked(text: str, wrong: Sequence[tuple[tuple[int, int], str]]) -> list[Part]:
    """A caption in parts, those in ``wrong`` (start, end and kind, from left to right) with their marks.

    Example:
        >>> [(part.text, part.mark) for part in marked("a red cup", [((2, 5), "wrong_attributes")])]
        [('a ', ''), ('red', 'wrong_attributes'), (' cup', '')]
    """
    parts, last = [], 0
    for (start, end), kind in wrong:
        parts += [Part(text[last:start]), Part(text[start:end], kind)]
        last = end
    return [part for part in (*parts, Part(text[last:])) if part.text]


def caption_page(name: str, data: str, cards: Sequence[CaptionCard], blind: str, result: TaskResult) -> str:
    """The page as HTML.

    Args:
        name, data: of the model and the data.
        cards: some pictures, drawn at random.
        blind: what the decoder says without a picture.
        result: the figures.
    """
    return page_environment().get_template("caption.html.j2").render(
        name=name, data=data, cards=cards, blind=blind, result=result, sentence=sentence(result)
    )  # fmt: skip


def sentence(result: TaskResult) -> str:
    """What was found, in one sentence."""
    found = result.metrics
    score = result.figure("cider")
    said = f"CIDEr {show(score.value, score.unit)} ({show(score.low, score.unit)} – {show(score.high, score.unit)})"
    if "wholly_true" not in found:
        return f"{said}; {show(found['k_precision_union'], 'share')} of a caption's words stand in what people say of the picture."
    named = found.get("hallucinated_objects")
    there = "they name no thing" if named is None else f"of the things that a caption names {show(named, 'share')} are not there"
    return (
        f"{show(found['wholly_true'], 'share')} of the captions are wholly true; {there}, and {show(found['left_out'], 'share')} of those that are "
        f"in the picture are left out. {said}."
    )

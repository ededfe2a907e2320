"""The page of question answering: pictures with question and answer first, one sentence, then the figures by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.show import show
from wholegrain.report.page import page_environment

SIDE = 192
"""Pixels of a picture's longer side."""


@dataclass(frozen=True)
class AnswerCard:
    """A picture as a ``data:`` URI with its shown size, and what was asked and said.

    Attributes:
        given, expected, blind: the answer; what is right; the answer without the picture.
        score: 0..1.
    """

    uri: str
    width: int
    height: int
    key: str
    question: str
    kind: str
    given: str
    expected: str
    blind: str
    score: float

    @property
    def right(self) -> bool:
        """At least half of the score."""
        return self.score >= 0.5


def answering_page(name: str, data: str, cards: Sequence[AnswerCard], result: TaskResult) -> str:
    """The page as HTML.

    Args:
        name, data: of the model and the data.
        cards: some questions, wrong ones first.
        result: its figures.
    """
    return page_environment().get_template("answering.html.j2").render(
        name=name, data=data, cards=cards, result=result, sentence=sentence(result), rows=_rows(result)
    )  # fmt: skip


def sentence(result: TaskResult) -> str:
    """What was found, in one sentence."""
    own, blind = result.figure("accuracy"), result.figure("accuracy_question_only")
    said = f"{_in_words(own)} of the answers are right; {_in_words(blind)} without the picture"
    if own.shuffled is not None:
        said += f", {show(own.shuffled, own.unit)} with another picture"
    if own.chance is not None:
        said += f", {show(own.chance, own.unit)} by chance"
    return f"{said}."


def _in_words(figure: Figure) -> str:
    return f"{show(figure.value, figure.unit)} ({show(figure.low, figure.unit)} – {show(figure.high, figure.unit)})"


def _rows(result: TaskResult) -> list[tuple[str, Figure, Figure]]:
    """Kind by kind, all first: (kind, accuracy, accuracy without the picture)."""
    groups = [figure.name.rpartition("/")[0] for figure in result.figures if figure.name.rpartition("/")[2] == "accuracy"]
    named = {figure.name: figure for figure in result.figures}
    prefix = [f"{group}/" if group else "" for group in groups]
    return [(group or "all", named[f"{at}accuracy"], named[f"{at}accuracy_question_only"]) for group, at in zip(groups, prefix, strict=True)]

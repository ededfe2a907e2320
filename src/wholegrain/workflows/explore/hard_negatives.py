"""False captions made on the spot from one that is taken for true, and which of them beat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wholegrain.data.record import Caption, Negative, Record, caption_id
from wholegrain.enrich.negatives.edits import KINDS
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.report.contact_sheet import mark_edits
from wholegrain.report.words import plain


class NegativeMaker:
    """The word rules, with the words of some captions before all others: those a model of these captions has met.

    Args:
        captions: of the data; none allows every word of the rules' lists.
    """

    def __init__(self, captions: Sequence[str] = ()) -> None:
        self._any = NegativesStage(KINDS, balance=())
        self._known = NegativesStage(KINDS, balance=())
        self._known.fit_records([_record([text]) for text in dict.fromkeys(captions)])

    def of(self, caption: str) -> list[Negative]:
        """At most one false text of each kind, in the order of the kinds; the same for the same caption."""
        record = _record([caption])
        made = {row.kind: row for stage in (self._any, self._known) for row in stage.of(record)}
        return [made[kind] for kind in KINDS if kind in made]


@dataclass(frozen=True)
class Contest:
    """A caption against its false versions.

    Attributes:
        caption: taken for true.
        models: names.
        negatives: what it was changed into.
        true_M, false_MN: float32, scores by model.
    """

    caption: str
    models: tuple[str, ...]
    negatives: tuple[Negative, ...]
    true_M: np.ndarray
    false_MN: np.ndarray

    @property
    def kept_MN(self) -> np.ndarray:
        """bool: the model scores the caption above this false version."""
        return self.true_M[:, None] > self.false_MN

    def kind(self, n: int) -> str:
        """What was changed, in people's words."""
        return plain(self.negatives[n].kind)

    def pieces(self, n: int) -> list[tuple[str, str]]:
        """The false text in pieces (``same``, ``old`` or ``new``; text)."""
        return mark_edits(self.caption, self.negatives[n])

    @property
    def sentence(self) -> str:
        """Which model falls for what."""
        if not self.negatives:
            return "Our rules find nothing in this caption that they could make false; try one with a colour, a number or a relation."
        return "; ".join(self._of(m) for m in range(len(self.models))) + "."

    def _of(self, m: int) -> str:
        count = len(self.negatives)
        versions = f"{count} false version{'' if count == 1 else 's'}"
        lost = [self.kind(n) for n, kept in enumerate(self.kept_MN[m]) if not kept]
        if not lost:
            return f"{self.models[m]} keeps the caption above {'all ' if count > 1 else ''}{versions}"
        return f"{self.models[m]} does not put the caption above {len(lost)} of {versions}: {', '.join(dict.fromkeys(lost))}"


def _record(captions: Sequence[str]) -> Record:
    return Record("explore", "", (1, 1), captions=tuple(Caption(caption_id(text), text) for text in captions))

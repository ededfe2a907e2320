"""Rewordings of every caption that stay true, each with a false text: :class:`HardPositivesStage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import HardPositive, Record
from wholegrain.enrich.negatives.edits import KINDS as FALSEHOODS
from wholegrain.enrich.negatives.negation import NEGATED
from wholegrain.enrich.negatives.word_rules import VERSION, NegativesStage, sources
from wholegrain.enrich.paraphrases import KINDS, paraphrases
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.text.words.source import stream
from wholegrain.text.words.tagging import BuiltinTagger, Tagger


@dataclass
class HardPositivesStage(Stage):
    """At most one true rewording of each kind for every caption, beside a false text of the same caption.

    Captions that allow no rewording, or of which no false text can be made, have none.

    Args:
        kinds: of :data:`~wholegrain.enrich.paraphrases.KINDS`.
        seed: draws the false texts.
        tagger: grammar; built in by default.
    """

    kinds: Sequence[str] = KINDS
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)
    negatives: NegativesStage = field(init=False)

    name = "hard_positives"
    table = "hard_positives"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise UserError(f"There is no kind {unknown[0]!r} of hard positives; {closest(unknown[0], KINDS)}")
        self.negatives = NegativesStage(FALSEHOODS, 1, self.seed, self.tagger)

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {**self.negatives.identity, "method": "rewordings", "version": VERSION, "kinds": list(self.kinds)}

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """As :meth:`NegativesStage.fit`: the false texts are drawn like negatives."""
        self.negatives.fit(dataset, keys)

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The rewordings of each record."""
        return [self.of(record) for record in records]

    def of(self, record: Record) -> list[HardPositive]:
        """The rewordings of one record."""
        found: list[HardPositive] = []
        false: dict[str, list[str]] = {}
        for row in self.negatives.of(record):
            false.setdefault(row.caption, []).append(row.text)
        for caption, source in sources(record, self.tagger, None):
            if caption.role == NEGATED or caption.id not in false:
                continue
            for made in paraphrases(source.tagged):
                if made.kind in self.kinds and made.text.lower() not in source.picture.texts:
                    wrong = stream(self.seed, record.key, caption.id, made.kind).choice(false[caption.id])
                    item = f"{record.key}:{caption.id}:{made.kind}"
                    found.append(HardPositive(item, made.kind, record.key, (caption.text, made.text), wrong, record.split))
        return found

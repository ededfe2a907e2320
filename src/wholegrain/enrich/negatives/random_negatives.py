"""The control for hard negatives: as many captions of other pictures, :class:`RandomStage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative, Record
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.text.words.source import stream

_POOL = 100_000


@dataclass
class RandomStage(Stage):
    """Captions of other pictures in the place of hard negatives.

    Args:
        per_caption: how many for each caption; 0 takes the number of negatives that the caption has already, so that the control has the
            same count, caption by caption.
        like: the folder of the data set whose negatives are counted; empty is the data set itself.
        seed: of all draws.
    """

    per_caption: int = 0
    like: str = ""
    seed: int = 0
    pool: list[tuple[str, str]] = field(default_factory=list, repr=False)
    counts: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)

    name = "random"
    table = "negatives"

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {
            "method": "random captions", "version": 1, "per_caption": self.per_caption, "seed": self.seed,
            "like": self.like, "counts": sum(self.counts.values()),
        }  # fmt: skip

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Keeps the captions that can be drawn (of large collections 100,000), and how many each caption is to have."""
        everything: list[tuple[str, str]] = []
        for key in sorted(keys):
            everything += [(key, text) for text in dict.fromkeys(caption.text for caption in dataset.record(key).captions)]
        draw = stream(self.seed, "pool")
        self.pool = everything if len(everything) <= _POOL else sorted(draw.sample(everything, _POOL))
        if self.per_caption == 0:
            wanted, counted = set(keys), Dataset(self.like) if self.like else dataset
            self.counts = {place: len(rows) for place, rows in counted.negatives.items() if place[0] in wanted}
            if not self.counts:
                raise UserError(
                    f"{counted.folder} has no negatives whose number random ones could take; make those first: wholegrain enrich {counted.folder} "
                    "--negatives"
                )
        if len({key for key, _ in self.pool}) < 2:
            raise UserError("Random negatives are captions of other images: the data need at least two images.")

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The captions drawn for each record."""
        return [self._of(record) for record in records]

    def _of(self, record: Record) -> list[Negative]:
        own = {caption.text.lower() for caption in record.captions}
        found: list[Negative] = []
        for caption in {caption.id: caption for caption in record.captions}.values():
            taken = set(own)
            draw = stream(self.seed, record.key, caption.id, "random")
            for _ in range(self.per_caption or self.counts.get((record.key, caption.id), 0)):
                for _ in range(100):  # a pool of equal captions gives none
                    key, text = self.pool[draw.randrange(len(self.pool))]
                    if key != record.key and text.lower() not in taken:
                        taken.add(text.lower())
                        edit = (0, len(caption.text), caption.text, text)
                        found.append(
                            Negative(record.key, caption.id, "random", text, (edit,), f"random captions, seed {self.seed}")
                        )
                        break
        return found

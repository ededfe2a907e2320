"""The result of a captioner: its captions' scores, with those of another picture's caption and of the decoder without a picture beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.known import world_of
from wholegrain.downstream.captioning.claims import ClaimReader, Span
from wholegrain.downstream.captioning.examples import CaptionExample
from wholegrain.downstream.captioning.scene_truth import KINDS, SceneTruth, judge, judged_figures, truth_of
from wholegrain.downstream.captioning.scores import cider, k_precisions
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.faithfulness import tokens
from wholegrain.text.words.text import tokens as words_of

_NOTES = {
    "cider": "CIDEr-D, 0 to 10; papers print it times 100",
    "k_precision_union": "words that stand in any caption of the picture",
    "k_precision_max": "words that stand in its best single caption",
    "left_out": "things of the picture that are not named",
}


@dataclass(frozen=True)
class Pictures:
    """What captions are measured against.

    Attributes:
        examples: pictures with their references.
        said: all captions of each picture, of whatever role.
        truths: of scenes, each picture's; else ``None``.
        reader: of scenes.
    """

    examples: Sequence[CaptionExample]
    said: Sequence[tuple[str, ...]]
    truths: Sequence[SceneTruth] | None = None
    reader: ClaimReader | None = None

    @property
    def keys(self) -> list[str]:
        """Of the pictures, in order."""
        return [example.key for example in self.examples]

    def values(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """Figure -> float64 ``[N]``, a caption for each picture."""
        found = {"cider": cider(captions, [example.captions for example in self.examples]), **k_precisions(captions, self.said)}
        if self.truths is not None and self.reader is not None:
            found |= judged_figures(captions, self.truths, self.reader)
        return found

    def wrong(self, n: int, caption: str) -> list[tuple[Span, str]]:
        """Where a caption of the n-th picture is wrong, and how, from left to right: against a scene's truth, or words that no caption of the
        picture has (``unbacked``)."""
        if self.truths is not None and self.reader is not None:
            judged = judge(self.reader(caption), self.truths[n])
            return sorted((span, kind) for kind in KINDS for span in judged.wrong[kind])
        backed = {word for text in self.said[n] for word in tokens(text)}
        found = [((word.start, word.end), set(tokens(word.text))) for word in words_of(caption)]
        return [(span, "unbacked") for span, words in found if words - backed]

    def left_out(self, n: int, caption: str) -> tuple[str, ...]:
        """Nouns of the n-th picture that a caption does not name; none where the truth is not known."""
        if self.truths is None or self.reader is None:
            return ()
        return judge(self.reader(caption), self.truths[n]).left_out


def pictures_of(dataset: Dataset, examples: Sequence[CaptionExample]) -> Pictures:
    """What the captions of these pictures are measured against; the truth, where every one of them is a scene that has it."""
    records = [dataset.record(example.key) for example in examples]
    said = [tuple(caption.text for caption in record.captions) for record in records]
    world = world_of(dataset)
    reader = None if world is None else ClaimReader(world)
    truths = [] if reader is None else [truth for record in records if (truth := truth_of(record, reader)) is not None]
    if reader is None or len(truths) < len(records):
        return Pictures(examples, said)
    return Pictures(examples, said, truths, reader)


def captioning_result(pictures: Pictures, captions: list[str], blind: str, protocol: str, seed: int = 0) -> TaskResult:
    """Figures with intervals over pictures.

    Args:
        captions: one for each picture.
        blind: what the decoder says without a picture: the level of chance.
        protocol: how they were made, a sentence.
        seed: of resamples, and of which picture's caption stands in for which.
    """
    keys = pictures.keys
    order = stand_ins(keys, seed)
    shuffled = {} if order is None else pictures.values([captions[n] for n in order.tolist()])
    extra = {"caption": list(captions), "references": [list(example.captions) for example in pictures.examples]}
    chance = pictures.values([blind] * len(keys))
    rows = Rows(keys, [""] * len(keys), keys, pictures.values(captions), chance, shuffled, extra=extra)
    said = (
        f"{protocol} {len(keys):,} pictures; chance: the decoder without a picture, which says \"{blind}\" of all; shuffled: the caption of another "
        f"picture. CIDEr-D against {sum(len(example.captions) for example in pictures.examples):,} references, K-Precision against all captions."
    )
    if pictures.truths is not None:
        said += f" {_sentence_of(pictures, captions)}"
    return TaskResult("captioning", said, tuple(figures(rows, units={"cider": "ratio"}, notes=_NOTES, seed=seed)), table(rows))


def _sentence_of(pictures: Pictures, captions: Sequence[str]) -> str:
    assert pictures.reader is not None
    assert pictures.truths is not None
    judged = [judge(pictures.reader(text), truth) for text, truth in zip(captions, pictures.truths, strict=True)]
    counts = [f"{sum(len(one.wrong[kind]) for one in judged):,} of {sum(one.judged[kind] for one in judged):,} {kind}" for kind in KINDS]
    out = f"{sum(len(one.left_out) for one in judged):,} of {sum(one.nouns for one in judged):,} left_out"
    return f"In all, counted against the scenes' records: {', '.join([*counts, out]).replace('_', ' ')}; figures are means of a picture's shares."



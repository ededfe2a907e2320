"""Question answering as a task: a causal language model learns to say the answer behind picture and question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wholegrain.downstream.answering.answerer import IGNORED, Answerer, make_answerer
from wholegrain.downstream.answering.balance import Question
from wholegrain.downstream.answering.settings import AskSettings
from wholegrain.downstream.answering.visual_tokens import needs_of
from wholegrain.downstream.answering.words import Words, new_words, words_of
from wholegrain.downstream.task import Term, View
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model


@dataclass(frozen=True)
class AskTargets:
    """Questions with their answers behind them.

    Attributes:
        text_BL: ids of question and answer, without the answer's end; padded behind.
        wanted_BL: the id that is to follow each of them, -100 where nothing is asked for.
    """

    text_BL: Tensor
    wanted_BL: Tensor

    def to(self, device: torch.device) -> AskTargets:
        """The same on a device."""
        return AskTargets(self.text_BL.to(device), self.wanted_BL.to(device))


class AskTask:
    """A :class:`~wholegrain.downstream.task.HeadTask`.

    Args:
        settings: the recipe.
        questions: to train on; the words of a new decoder are theirs.
    """

    name = "ask"
    view: View = "whole"

    def __init__(self, settings: AskSettings, questions: Sequence[Question]) -> None:
        self.settings = settings
        decoder = settings.decoder
        if decoder.folder:
            self.words: Words = words_of(Path(decoder.folder), decoder.parts)
        else:
            self.words = new_words([text for one in questions for text in (one.text, *one.answers)], decoder.parts)

    @property
    def needs(self) -> frozenset[str]:
        """The patches, where they are seen."""
        return needs_of(self.settings.tokens)

    def make_head(self, model: Model) -> Answerer:
        """Projector and decoder."""
        return make_answerer(self.settings.decoder, self.settings.tokens, self.words, model.image_tower.width)

    def targets(self, examples: Sequence[Question], random: Sequence[np.random.Generator]) -> AskTargets:
        """Of several people's answers one is drawn."""
        asked = [self.words.question(one.text) for one in examples]
        said = [self.words.answer(one.answers[int(stream.integers(len(one.answers)))]) for one, stream in zip(examples, random, strict=True)]
        length = max(len(q) + len(a) for q, a in zip(asked, said, strict=True)) - 1
        text_BL = torch.full((len(examples), length), self.words.padding)
        wanted_BL = torch.full((len(examples), length), IGNORED)
        for row, (question, answer) in enumerate(zip(asked, said, strict=True)):
            whole = torch.tensor(question + answer)
            text_BL[row, : len(whole) - 1] = whole[:-1]
            wanted_BL[row, len(question) - 1 : len(whole) - 1] = whole[len(question) :]
        return AskTargets(text_BL, wanted_BL)

    def loss(self, head: nn.Module, image: RawImage, targets: AskTargets) -> dict[str, Term]:
        """Cross-entropy of the answers' tokens."""
        assert isinstance(head, Answerer)
        total = head.loss(head.sees(image), targets.text_BL, targets.wanted_BL)
        return {"answer": Term(total, float((targets.wanted_BL != IGNORED).sum()))}

"""What a read-out is: how a phrase and a picture give one number a patch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.features import ImageFeatures

Look = TypeVar("Look")
Recorded = list[Any]
"""What a read-out that looks into the tower has seen there; empty for all others."""


@dataclass(frozen=True)
class Phrase:
    """A text, and the part of it that is looked for: the code points ``start`` to ``end``, by default all of it.

    Example:
        >>> Phrase.filled("a photo of a {}.", "red cup")
        Phrase(text='a photo of a red cup.', start=13, end=20)
    """

    text: str
    start: int = 0
    end: int = 2**31

    @classmethod
    def filled(cls, template: str, name: str) -> Phrase:
        """A name in the place of a template's ``{}``."""
        start = template.find("{}")
        return cls(template.replace("{}", name), start, start + len(name))


class ReadOut(ABC, Generic[Look]):
    """A way to read a phrase out of the patches of one model's pictures.

    ``ask`` makes of each phrase what is asked with, ``look`` of a batch of pictures what is looked at, and ``maps`` brings the two together.
    What is asked with is a tensor of one row a phrase, so that rows may be chosen, and averaged over prompts.

    Args:
        model: whose pictures and phrases are read.

    Attributes:
        name: by which it is asked for, and which stands before its figures.
        sentence: what it takes for the value of a patch, for protocols.
        needs: of :meth:`~wholegrain.evaluation.contract.EvaluatedModel.encode_images`.
        cosines: the values are cosines, so that a threshold for cosines applies to them.
        asks_pooled: phrases are asked with as unit pooled vectors ``[N, D]``.
        reads_parts: a phrase is asked with by the part of its text that it marks, read within that text; others ask with the whole text.

    Raises:
        NotSupportedError: the model cannot be read out so; one sentence says why.
    """

    name: ClassVar[str]
    sentence: ClassVar[str]
    cosines: ClassVar[bool] = False
    asks_pooled: ClassVar[bool] = False
    reads_parts: bool = False
    needs: frozenset[str] = frozenset({"patches"})

    def __init__(self, model: EvaluatedModel) -> None:
        self.model = model

    @abstractmethod
    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """``[N, …]`` on the CPU, row for row with the phrases."""

    def recording(self) -> AbstractContextManager[Recorded]:
        """Open while the model encodes pictures."""
        return nullcontext([])

    @abstractmethod
    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Look:
        """What is looked at of B pictures: of their features (on the CPU, with ``needs``), or of what was recorded."""

    @abstractmethod
    def maps(self, look: Look, asked_N: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """For picture b of the look the values of the phrases ``rows[b]`` at its patches: float32 ``[len(rows[b]), P]`` on the CPU."""

    def all_maps(self, look: Look, asked_N: Tensor, pictures: int) -> Tensor:
        """The values of all N phrases at the patches of all pictures: float32 ``[B, P, N]`` on the CPU."""
        return torch.stack(self.maps(look, asked_N, [range(len(asked_N))] * pictures)).mT


AnyReadOut: TypeAlias = ReadOut[Any]
"""One of any kind: what it looks at is handed back to it alone."""

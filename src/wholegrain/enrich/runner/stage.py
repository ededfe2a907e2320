"""What makes rows of a sidecar: a stage. It computes, and the runner reads and writes.

A stage is a pure function of records (and pictures) once it is fitted: the same record gives the same rows whatever comes before it, in
whichever process. Then work can be shared out, killed and continued, and the sidecars come out byte for byte the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import GeneratedCaption, HardPositive, Negative, Record
from wholegrain.enrich.runner.journal import Journal

Picture: TypeAlias = np.ndarray | bytes | None
Row: TypeAlias = Negative | HardPositive | GeneratedCaption
Looks: TypeAlias = Literal["no", "pixels", "file"]
Place: TypeAlias = Literal["cores", "device", "calls"]


@dataclass(frozen=True)
class Failure:
    """A record, or one of the rows of a record, that could not be made.

    Attributes:
        key: the record.
        reason: one sentence.
    """

    key: str
    reason: str


Rows: TypeAlias = Sequence[Row | Failure]
"""What a stage made of one record, in an order that is a function of the record; may be empty."""


class Stage(Protocol):
    """One way to make rows. Inherit from it for the defaults; instances must be picklable.

    Attributes:
        name: for people: ``negatives``, ``ce_clip``, ``captions``, …
        table: the sidecar that the rows belong to: ``negatives``, ``hard_positives`` or ``captions``.
        identity: all that the rows depend on besides the data: method, version, seed, prompts, model, …; plain JSON values. Rows of
            another identity are other rows, and are made anew.
        looks: what :meth:`rows` gets of the pictures: nothing, uint8 RGB ``[H, W, 3]``, or the image's file as bytes.
        place: ``cores``: one process a core; ``device``: holds a model, so one process a GPU (or one in all on a CPU);
            ``calls``: waits for somebody else's machine, so it runs in the main process and brings its own threads.
    """

    name: str
    table: str
    identity: dict[str, object]
    looks: Looks = "no"
    place: Place = "cores"

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Takes in facts of the whole collection, such as word counts, before work is shared out; a function of ``keys`` as a set."""

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The rows of each record, in the order of the records.

        Args:
            records: any number of them, with the captions that earlier stages generated.
            pixels: as many, as :attr:`looks` says; ``None`` each where it says no.

        Returns:
            one entry a record: its rows, or a :class:`Failure` for a record that could not be done. A row that could not be made among
            others that could is a :class:`Failure` between them.
        """
        ...


class CallStage(Stage, Protocol):
    """A stage whose answers cost time or money of somebody else, so they are kept in a journal; it runs in the main process alone."""

    place: Place = "calls"

    def keep_in(self, journal: Journal) -> None:
        """From now on answers are kept in this journal, and not asked for where it has them."""
        ...

    def stop(self) -> None:
        """No further call is made."""
        ...

    def spent(self) -> str:
        """What was spent so far, in words."""
        ...

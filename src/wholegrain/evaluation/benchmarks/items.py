"""The one type of item that all pair-wise benchmarks are read into, and the benchmark that holds them.

An item says what is compared by what it has:

=========  =========  ===========================================================================================
pictures   texts      right if
=========  =========  ===========================================================================================
1          T | F      every one of the T true texts scores strictly above every one of the F false ones; with ``ordered`` the T + F
                      texts must stand in falling order, each strictly above the next
1 + W      1 | 0      the first picture scores strictly above the W others, for the same text
2          2 | 0      Winoground's scores: picture i belongs to text i (text, image and group score)
0          2 | 1      no picture: the two true texts are nearer to each other than either is to the false one
=========  =========  ===========================================================================================

Chance is ``1 / C(T + F, T)`` of a fair breaking of all ties (``1 / (T + F)!`` with ``ordered``), ``1 / (1 + W)``, 1/4, 1/4 and 1/6, and 1/3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wholegrain.errors import UserError

Tree = str | tuple["Tree", ...]
"""An average: a part, or the plain mean of several averages. ``("a", ("b", "c"))`` gives a one half, b and c one quarter each."""


@dataclass(frozen=True)
class Picture:
    """A picture file, or the part of it inside ``box`` (x0, y0, x1, y1 in pixels), which is cut out before anything else.

    With ``span`` (offset, size) the picture is that piece of a larger file, a member of a tar; with ``cell`` (column, row) it is in that
    place of a parquet or Arrow table (:mod:`wholegrain.evaluation.benchmarks.picture_tables`).
    """

    path: Path
    box: tuple[int, int, int, int] | None = None
    span: tuple[int, int] | None = None
    cell: tuple[str, int] | None = None


@dataclass(frozen=True)
class Item:
    """One comparison; see the module docstring.

    Attributes:
        id: stable and unique within its group; two systems are compared by it.
        group: the subset in whose row of the table it counts.
        pictures, true, false: what is compared.
        part: the finest part that averages are taken over (a relation, a source); the group if empty.
        together: name -> id: all items with the same id must be right for the score ``NAME_accuracy`` (What'sUp's pairs and sets).
        ordered: the texts, the true ones and then the false ones, must stand in falling order (half-truths' COR).
    """

    id: str
    group: str
    pictures: tuple[Picture, ...]
    true: tuple[str, ...]
    false: tuple[str, ...] = ()
    part: str = ""
    together: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many pictures, true texts and false texts."""
        return len(self.pictures), len(self.true), len(self.false)


@dataclass(frozen=True)
class Benchmark:
    """What a reader makes of a folder.

    Attributes:
        name: also the name of the task in results.
        items: in the order of the files.
        protocol: what is scored, in one sentence without a full stop.
        averages: name -> :data:`Tree` over parts, as papers take them, shown as ``NAME_accuracy``; parts that are not there leave
            their average out.
        published: how many items the published benchmark has in each group; where fewer were read, the result says so.
        micro: whether a figure over all items at once has a meaning (it weighs large groups more).
        notes: sentences for the protocol: what was not found, what was left out.
    """

    name: str
    items: tuple[Item, ...]
    protocol: str
    averages: Mapping[str, Tree] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    micro: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionSet:
    """Pictures with their captions, for retrieval.

    Attributes:
        name: also the name of the task in results.
        pictures: ``[B]``.
        captions: ``[B]`` the captions of each picture, in their order.
        protocol: where they come from and what was done to them, in one sentence without a full stop.
        notes: sentences for the protocol.
        shared: a caption that several pictures have is true of each of them; else of its own alone, as most published numbers count.
    """

    name: str
    pictures: tuple[Picture, ...]
    captions: tuple[tuple[str, ...], ...]
    protocol: str
    notes: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class LabelledSet:
    """Pictures with their classes, for classification.

    Attributes:
        name: also the name of the task in results.
        pictures, labels: ``[B]``; a label is a place in ``classes``, or any number of them for a multi-label set.
        classes: what is put into the sentences.
        templates: sentences with ``{}`` in the place of the class.
        metric: the figure that papers quote for this set: ``acc1``, ``mean_per_class_recall``, ``roc_auc``,
            ``mean_average_precision``, ``mean_average_precision_11``.
        protocol: where it comes from, in one sentence without a full stop.
        notes: sentences for the protocol.
        train: pictures and labels to fit a probe on; empty if there are none.
    """

    name: str
    pictures: tuple[Picture, ...]
    labels: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    metric: str
    protocol: str
    notes: tuple[str, ...] = ()
    train: tuple[tuple[Picture, ...], tuple[tuple[int, ...], ...]] = ((), ())


@dataclass(frozen=True)
class ClassRanking:
    """Pictures that are ranked for each class, for the mean average precision over classes (COLA's single objects).

    Attributes:
        name: also the name of the task in results.
        pictures: ``[B]``.
        classes: ``[C]`` the text of each class.
        shown: ``[B]`` of ``[C]``: whether the picture shows the class.
        counted: ``[B]`` of ``[C]``: whether the picture is among those that the class is ranked in.
        protocol: what is scored, in one sentence without a full stop.
        notes: sentences for the protocol.
    """

    name: str
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    shown: tuple[tuple[bool, ...], ...]
    counted: tuple[tuple[bool, ...], ...]
    protocol: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One picture and one text that is true of it or not, without a partner (VSR)."""

    id: str
    group: str
    picture: Picture
    text: str
    label: bool


@dataclass(frozen=True)
class Statements:
    """What a reader makes of a benchmark of :class:`Statement` items; the fields are those of :class:`Benchmark`."""

    name: str
    items: tuple[Statement, ...]
    protocol: str
    notes: tuple[str, ...] = ()


def leaves(tree: Tree, weight: float = 1.0) -> dict[str, float]:
    """The weight of each part in an average; they sum to 1.

    Example:
        >>> leaves(("a", ("b", "c")))
        {'a': 0.5, 'b': 0.25, 'c': 0.25}
    """
    if isinstance(tree, str):
        return {tree: weight}
    found: dict[str, float] = {}
    for branch in tree:
        for part, share in leaves(branch, weight / len(tree)).items():
            found[part] = found.get(part, 0.0) + share
    return found


def average(parts: Mapping[str, float], tree: Tree) -> float:
    """The average of the parts' scores.

    Raises:
        UserError: when a part has no score.

    Example:
        >>> average({"a": 1.0, "b": 0.0, "c": 1.0}, ("a", ("b", "c")))
        0.75
    """
    missing = [part for part in leaves(tree) if part not in parts]
    if missing:
        raise UserError(f"The average needs a score of {', '.join(missing)}; give it, or leave the average out.")
    return sum(weight * parts[part] for part, weight in leaves(tree).items())


def check(items: Sequence[Item], name: str) -> None:
    """Raises :class:`UserError` for items that compare nothing, share an id, or have none at all."""
    if not items:
        raise UserError(f"The benchmark {name} has no items; check its folder.")
    seen: set[tuple[str, str]] = set()
    for item in items:
        pictures, true, false = item.shape
        one_text_wins = pictures == 1 and true >= 1 and false >= 1
        if item.ordered and not one_text_wins:
            raise UserError(f"Item {item.id!r} of {name} is ordered, and has not one picture and texts of both kinds; leave ordered out.")
        if not (one_text_wins or (pictures >= 2 and (true, false) == (1, 0)) or item.shape in ((2, 2, 0), (0, 2, 1))):
            raise UserError(
                f"Item {item.id!r} of {name} has {pictures} pictures, {true} true and {false} false texts, which no score compares; "
                "see wholegrain.evaluation.benchmarks.items for what can be."
            )
        if (item.group, item.id) in seen:
            raise UserError(f"The id {item.id!r} stands twice in the group {item.group!r} of {name}; give each item its own.")
        seen.add((item.group, item.id))

"""``wholegrain classify``: the most probable of some labels for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    import numpy as np

    from wholegrain.data.listing import ListedPicture

SHOWN = 20
"""Pictures in the terminal's table."""


@dataclass(frozen=True, kw_only=True)
class ClassifyArguments:
    """The words and options of ``wholegrain classify``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run; or file.py:function, which returns any other model.
        pictures: a folder of pictures, or picture files.
        labels: two or more, separated by commas.
        labels_file: a .txt with a label a line, in place of --labels.
        templates: sentences with {} for the label, or names: photo, openai, openai7, plain, a data set of CLIP's paper.
        abstain_below: least probability, 0 to 1; a picture whose best label has less gets none.
        out: a .csv with each picture's label and all probabilities.
        batch: pictures per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    model: Positional[str]
    pictures: Positional[tuple[str, ...]]
    labels: str = ""
    labels_file: Path | None = None
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEMPLATE")] = ("photo",)
    abstain_below: float | None = None
    out: Path | None = None
    batch: int = 64
    device: str = "auto"


def classify(args: ClassifyArguments) -> None:
    """The most probable label of each picture, without training. Probabilities are the softmax of the scores at the model's temperature, among
    these labels alone.

    wholegrain classify ViT-B-32:openai photos --labels cat,dog,horse --abstain-below 0.5 --out labels.csv
    """
    import numpy as np

    from wholegrain.files import disk_errors
    from wholegrain.progress import showing
    from wholegrain.workflows.broken_pictures import BrokenPictures
    from wholegrain.workflows.classified import chosen
    from wholegrain.workflows.embedder import load

    labels, pictures = _checked(args)
    broken, listed = BrokenPictures(), list(pictures)
    names: list[str] = []
    parts: list[np.ndarray] = []
    with showing() as show:
        show("loading the model")
        embedder = load(args.model, args.device)
        if args.out is not None:
            with disk_errors(args.out):
                args.out.parent.mkdir(parents=True, exist_ok=True)
        for places, found in embedder.classify_batches(
            pictures.values(), labels, templates=args.templates, batch_size=args.batch, broken=broken, progress=show
        ):
            names += [listed[place] for place in places]
            parts.append(found)
    broken.check(len(pictures))
    probability_NC = np.concatenate(parts)
    _tell(args, names, chosen(probability_NC, labels, args.abstain_below), probability_NC, labels)


def _checked(args: ClassifyArguments) -> tuple[list[str], dict[str, ListedPicture]]:
    """The labels, and the pictures by name; what cannot be done is refused before anything is loaded."""
    import numpy as np

    from wholegrain.errors import UserError
    from wholegrain.files import keepable, shown
    from wholegrain.workflows.classified import check_labels, chosen
    from wholegrain.workflows.inputs import pictures_of, read_texts

    if bool(args.labels) == (args.labels_file is not None):
        raise UserError("Give the labels by --labels cat,dog or by --labels-file FILE, one of the two.")
    given = read_texts(args.labels_file) if args.labels_file is not None else [label.strip() for label in args.labels.split(",")]
    labels = check_labels(given)
    chosen(np.zeros((0, len(labels))), labels, args.abstain_below)  # refuses what is no probability
    if args.out is not None:
        keepable(args.out)
        if args.out.suffix != ".csv":
            raise UserError(f"--out is {shown(args.out)}; give a file that ends in .csv.")
    return labels, pictures_of(args.pictures)


def _tell(args: ClassifyArguments, names: list[str], found: Sequence[str | None], probability_NC: np.ndarray, labels: list[str]) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("picture", "label", "probability", "next", box=None, pad_edge=False)
    for name, label, row in list(zip(names, found, probability_NC, strict=True))[:SHOWN]:
        first, second = (-row).argsort(kind="stable")[:2]
        shown = escape(label) if label is not None else "– (none)"
        table.add_row(escape(name), shown, f"{row[first]:.1%}", f"{escape(labels[second])} {row[second]:.1%}")
    console = Console(highlight=False)
    console.print(table)
    if len(names) > SHOWN:
        console.print(f"… and {len(names) - SHOWN:,} more", markup=False)
    counts = Counter(found)
    said = ", ".join(f"{counts[label]:,} {label or 'none'}" for label in (*labels, None) if counts[label])
    console.print(f"{len(names):,} pictures: {said}", markup=False, soft_wrap=True)
    if args.out is None:
        print("next: --out labels.csv keeps them, with the probabilities of all labels")
        return
    _write(args.out, names, found, probability_NC, labels)
    print(f"written: {args.out}")
    print("next: where does the model look? wholegrain explain MODEL PICTURE CAPTION")


def _write(out: Path, names: list[str], found: Sequence[str | None], probability_NC: np.ndarray, labels: list[str]) -> None:
    import csv

    from wholegrain.files import aside, disk_errors

    with disk_errors(out), aside(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "label", "probability", *(f"p({label})" for label in labels)])
        for name, label, row in zip(names, found, probability_NC, strict=True):
            writer.writerow([name, label or "", f"{row.max():.6f}", *(f"{p:.6f}" for p in row)])

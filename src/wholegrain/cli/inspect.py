"""``wholegrain inspect``: what is in a prepared data set, as tables and as a page of pictures, or what a model is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from wholegrain.errors import UserError
from wholegrain.structure import JsonTable

if TYPE_CHECKING:
    from wholegrain.data.manifest import Manifest
    from wholegrain.workflows.about import About

MODELS = ("model.json", "model", "checkpoints", "open_clip_config.json", "config.json")
"""What is in a folder that is a model or a run."""


def inspect(what: Positional[str], /, *, out: Path | None = None, per_split: int = 12, seed: int = 0, sheet: bool = True) -> None:
    """Look at a data set: counts, lengths, duplicates and broken images, and a contact sheet in HTML; or at a model.

    Of a model: its towers and head, their parameters, pictures, tokeniser, scale, and the training that it comes from.

    wholegrain inspect data/photos
    wholegrain inspect runs/latest

    Args:
        what: a prepared data set, or a model as in "train --model"; a folder with manifest.json is a data set.
        out: the HTML file to write; by default contact_sheet.html in the data set's folder.
        per_split: pictures shown of each split.
        seed: which pictures; the same seed shows the same ones.
        sheet: write the contact sheet.
    """
    from wholegrain.data.remote import address

    console = Console(markup=False)
    if address(what) is None and not (Path(what) / "manifest.json").is_file():
        from wholegrain.workflows.about import about

        if Path(what).is_dir() and not any((Path(what) / name).exists() for name in MODELS):
            raise UserError(f"{what} holds neither a data set (manifest.json) nor a model ({', '.join(MODELS)}); check the path")
        print_about(about(what), console)
        return
    from wholegrain.data.dataset import Dataset

    dataset = Dataset(what)
    print_manifest(dataset.manifest, console)
    if sheet:
        from wholegrain.report.contact_sheet import write_contact_sheet

        path = write_contact_sheet(dataset, out or Path(what) / "contact_sheet.html", per_split=per_split, seed=seed)
        console.print(f"\nwritten: {path}", highlight=False, soft_wrap=True)
    console.print(f"next: wholegrain doctor {shlex.quote(str(what))}", highlight=False, soft_wrap=True)


def print_about(found: About, console: Console) -> None:
    """Prints what a model is."""
    parts = Table("part", "what", "width", "parameters", "trained", title="Model", title_justify="left")
    for part in found.parts:
        parts.add_row(part.name, part.what, str(part.width), f"{part.parameters:,}", f"{part.trained:,}")
    parts.add_row("all", "", "", f"{sum(p.parameters for p in found.parts):,}", f"{sum(p.trained for p in found.parts):,}")
    for column in parts.columns[2:]:
        column.justify = "right"
    console.print(parts)
    for name, value in found.facts:
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    if found.training:
        console.print("\nTraining", highlight=False)
    for name, value in found.training:
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)


def print_manifest(manifest: Manifest, console: Console) -> None:
    """Prints the tables of a manifest; parts that it lacks are left out."""
    console.print(f"source: {manifest.get('source', 'unknown')}", highlight=False, soft_wrap=True)
    if "pictures" in manifest:
        console.print(f"pictures are taken from {manifest['pictures']}", highlight=False, soft_wrap=True)
    if "split_by" in manifest:
        console.print(f"splits: {manifest['split_by']}", highlight=False, soft_wrap=True)
    splits = Table("split", "images", "captions", "captions per image", title="Splits", title_justify="left")
    for name, counts in manifest["splits"].items():
        mean = counts["captions"] / max(1, counts["images"])
        splits.add_row(name, f"{counts['images']:,}", f"{counts['captions']:,}", f"{mean:.2f}")
    roles = Table("role", "captions", title="Roles", title_justify="left")
    for name, count in manifest.get("roles", {}).items():
        roles.add_row(name, f"{count:,}")
    for table in (splits, roles):
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    _print_lengths(manifest.get("captions"), console)
    _print_faults(manifest, console)


def _print_lengths(captions: JsonTable | None, console: Console) -> None:
    if not captions:
        return
    words = {int(length): count for length, count in captions["words"].items()}
    total = sum(words.values())
    mean = sum(length * count for length, count in words.items()) / max(1, total)
    tokens = captions["tokens"]
    console.print(f"words per caption: mean {mean:.1f}, longest {max(words, default=0)}", highlight=False)
    if tokens.get("measured"):
        console.print(
            f"tokens per caption ({tokens['tokenizer']}, {tokens['measured']:,} measured): mean {tokens['mean']}, 95% up to "
            f"{tokens['p95']}, longest {tokens['max']}; {tokens['cut_share']:.2%} are cut at {tokens['context']}",
            highlight=False,
            soft_wrap=True,
        )


def _print_faults(manifest: Manifest, console: Console) -> None:
    table = Table("what", "count", "for example", title="To know", title_justify="left")
    table.columns[1].justify = "right"
    for what, count, example in faults(manifest):
        if count:
            table.add_row(what, f"{count:,}", example)
    if table.row_count:
        console.print(table)
    elif "broken" in manifest:
        console.print("no broken images, no duplicates, no empty captions", highlight=False)


def faults(manifest: Manifest) -> list[tuple[str, int, str]]:
    """(what, count, an example) of everything in a manifest that a user should know of."""
    duplicates = manifest.get("duplicates", {})
    captions = duplicates.get("captions", {})
    listed = captions.get("listed", [])
    across = [item for item in listed if len(item["images"]) > 1]
    found = [
        ("broken images, left out", manifest.get("broken"), lambda item: f"{item['where']}: {item['reason']}"),
        ("images without captions, left out", manifest.get("images_without_captions"), str),
        ("empty captions, left out", manifest.get("empty_captions"), str),
        ("equal images in one split, joined", duplicates.get("images_inside_splits"), lambda item: ", ".join(item["where"])),
        (
            "equal images in several splits, kept in one",
            duplicates.get("images_across_splits"),
            lambda item: f"kept in {item['kept']}; left out: {item['left_out'][0]['where']}",
        ),
    ]
    rows = [(what, part["count"], say(part["listed"][0]) if part["listed"] else "") for what, part, say in found if part]
    rows.append(("texts of several images of one split", captions.get("inside_splits", 0), listed[0]["text"] if listed else ""))
    rows.append(("texts in several splits", captions.get("across_splits", 0), across[0]["text"] if across else ""))
    return rows

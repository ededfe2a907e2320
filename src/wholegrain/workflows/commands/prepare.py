"""What ``wholegrain prepare`` does: any image-text source becomes one record format, checked, with a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from wholegrain.errors import UserError

if TYPE_CHECKING:
    from wholegrain.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    """The words and options of ``wholegrain prepare``.

    Attributes:
        source: a .csv, .tsv, .jsonl or .parquet file, a folder of images, name-{000000..000009}.tar, or hf:NAME[:split].
        out: folder of the data set to be made.
        image_column: column or field with the image, if it has an unusual name.
        caption_column: column or field with the caption, if it has an unusual name.
        caption_columns: several caption columns with their roles, as in raw=web,long_caption=detail.
        split_column: column or field with the split.
        label_column: column or field with the class.
        role_column: column or field with the caption's role.
        role: role of captions that state none.
        split: split of images that state none, all of them.
        split_by: where the source states no split, shares of train, val and test by the hash of each photo (90/5/5 unless told), or none: all train.
        image_root: folder that image paths are relative to and may not leave; by default the source's own, and for absolute paths the folder that
            all of them have in common.
        max_broken: greatest share of images that may be broken, 0 to 1.
        shard_mib: size of a shard in MiB.
        workers: decoding threads; 0 is one a core.
        overwrite: replace a data set that is there already.
    """

    source: Positional[str]
    out: Positional[Path]
    image_column: str = ""
    caption_column: str = ""
    caption_columns: str = ""
    split_column: str = ""
    label_column: str = ""
    role_column: str = ""
    role: str = "web"
    split: str = ""
    split_by: str = ""
    image_root: Path | None = None
    max_broken: float = 0.1
    shard_mib: int = 256
    workers: int = 0
    overwrite: bool = False


def prepare(args: PrepareArguments) -> Manifest:
    """Makes the data set; what it holds."""
    from wholegrain.data.prepare import PrepareOptions
    from wholegrain.data.prepare import prepare as run
    from wholegrain.data.sources import SourceOptions

    if args.caption_column and args.caption_columns:
        raise UserError("give --caption-column or --caption-columns, not both")
    if args.split and args.split_by:
        raise UserError("give --split or --split-by, not both")
    if not 0 <= args.max_broken <= 1 or args.shard_mib < 1 or args.workers < 0:
        raise UserError("--max-broken must be from 0 to 1, --shard-mib at least 1 and --workers at least 0")
    columns = ((args.caption_column, ""),) if args.caption_column else column_roles(args.caption_columns)
    told = SourceOptions(args.image_column, columns, args.split_column, args.label_column, args.role_column, args.role, args.split, args.image_root)
    return run(
        args.source,
        args.out,
        options=PrepareOptions(
            told,
            split_by=args.split_by,
            max_broken=args.max_broken,
            shard_bytes=args.shard_mib * 2**20,
            workers=args.workers,
            overwrite=args.overwrite,
        ),
    )


def column_roles(text: str) -> tuple[tuple[str, str], ...]:
    """``raw=web,long=detail`` -> (("raw", "web"), ("long", "detail")); a column without a role has the ordinary one."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not name.strip() for name, _, _ in pairs):
        raise UserError(f"--caption-columns {text!r} has a role without a column; write column=role,column=role")
    return tuple((name.strip(), role.strip()) for name, _, role in pairs)

"""What ``wholegrain audit`` does: what a model misses on your own photos and captions, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from wholegrain.workflows.audit import Audit


@dataclass(frozen=True, kw_only=True)
class AuditArguments:
    """The words and options of ``wholegrain audit``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run.
        photos: a prepared data set, or anything that prepare takes: a table, a folder, shards.
        out: a folder for audit.html, audit.json, results.json and the items.
        split: the split to ask about; by default test, else val, else the first.
        images: at most that many photos, drawn by the seed.
        per_kind: at most that many questions of each kind.
        grain: score by whole and grain, as 1 or 1:0.1, as in evaluate.
        pictures: photos with heat maps.
        seed: of all draws.
        batch: photos per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
        cache: a folder to keep features in, so that the next call need not encode.
        image_column: column with the photo, if it has an unusual name.
        caption_column: column with the caption, if it has an unusual name.
        caption_columns: several caption columns with their roles, as in raw=web,long_caption=detail.
        split_column: column with the split.
        image_root: folder that image paths are relative to and may not leave, as in prepare.
    """

    model: Positional[str]
    photos: Positional[str]
    out: Path = Path("audit")
    split: str = ""
    images: int = 1000
    per_kind: int = 250
    grain: str = ""
    pictures: int = 6
    seed: int = 0
    batch: int = 64
    device: str = "auto"
    cache: Path | None = None
    image_column: str = ""
    caption_column: str = ""
    caption_columns: str = ""
    split_column: str = ""
    image_root: Path | None = None


def audit(args: AuditArguments) -> Audit:
    """Loads the model, opens the photos, asks, and writes the page."""
    from wholegrain.data.sources import SourceOptions
    from wholegrain.errors import UserError
    from wholegrain.evaluation.named import load_any, with_grain
    from wholegrain.training.distributed.processes import choose_device
    from wholegrain.workflows.audit import AuditOptions, open_photos
    from wholegrain.workflows.audit import audit as run
    from wholegrain.workflows.commands.prepare import column_roles

    if min(args.images, args.per_kind, args.batch) < 1 or args.pictures < 0:
        raise UserError("--images, --per-kind and --batch must be at least 1 and --pictures at least 0")
    columns = ((args.caption_column, ""),) if args.caption_column else column_roles(args.caption_columns)
    dataset = open_photos(args.photos, args.out, SourceOptions(args.image_column, columns, args.split_column, image_root=args.image_root))
    place, name = choose_device(args.device), with_grain(args.model, args.grain)
    return run(
        load_any(name, place),
        dataset,
        args.out,
        name=name,
        options=AuditOptions(args.split, args.images, args.per_kind, args.pictures, args.seed, args.batch, args.cache),
    )

"""``wholegrain audit``: what a model misses on your own photos and captions, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


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


def audit(args: AuditArguments) -> None:
    """Audit a model on your own photos: a scorecard page, with controls beside every figure. Nothing is trained.

    wholegrain audit ViT-B-32:openai photos.csv

    From your captions false texts are made (another colour, number, thing, direction, who does what) and rewordings that stay true; the
    model is asked which is right. Retrieval, cut texts and heat maps stand beside.
    """
    import sys

    from rich.console import Console

    from wholegrain.cli.prepare import column_roles
    from wholegrain.data.sources import SourceOptions
    from wholegrain.errors import UserError
    from wholegrain.evaluation.named import load_any, split_grain
    from wholegrain.evaluation.show import left_out_lines
    from wholegrain.report.audit_page import scorecard_table
    from wholegrain.training.distributed.processes import choose_device
    from wholegrain.workflows.audit import AuditOptions, open_photos
    from wholegrain.workflows.audit import audit as run

    if min(args.images, args.per_kind, args.batch) < 1 or args.pictures < 0:
        raise UserError("--images, --per-kind and --batch must be at least 1 and --pictures at least 0")
    columns = ((args.caption_column, ""),) if args.caption_column else column_roles(args.caption_columns)
    dataset = open_photos(args.photos, args.out, SourceOptions(args.image_column, columns, args.split_column, image_root=args.image_root))
    place = choose_device(None if args.device == "auto" else args.device)
    model, grain = split_grain(args.model)
    name = f"{model},grain={args.grain or grain}" if args.grain or grain else model
    loaded = load_any(name)
    found = run(
        getattr(loaded, "to", lambda _: loaded)(place),
        dataset,
        args.out,
        name=name,
        options=AuditOptions(args.split, args.images, args.per_kind, args.pictures, args.seed, args.batch, args.cache),
    )
    console = Console()
    console.print(scorecard_table(found.lines))
    for line in left_out_lines([found.left_out]):
        print(line, file=sys.stderr)
    console.print(f"{found.facts['seconds']:.0f} s; look at {found.page}", highlight=False, soft_wrap=True)
    console.print("next: what is weak can be trained: wholegrain methods", highlight=False, soft_wrap=True)

"""``wholegrain search``: find pictures by words or by a picture, in any folder."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from wholegrain.errors import UserError, one_line
from wholegrain.files import shown

if TYPE_CHECKING:
    from wholegrain.workflows.search import Hit, Search

MOST_REASONS = 10
"""Unreadable pictures that are listed; of further ones there is a count."""


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """The words and options of ``wholegrain search``.

    Attributes:
        model: a name ("ViT-B-32:openai", "base"), a folder or a run.
        pictures: a folder of pictures with its folders, a prepared data set, or a table with a column of files.
        query: what the pictures should show, such as "a dog on grass".
        by: a picture in the place of words: find what looks like it.
        k: how many pictures to show.
        html: write a contact sheet there, one page with the pictures and where each phrase was found.
        grain: score by whole and grain, as 1 or 1:0.1, as in evaluate.
        shortlist: of a model with a joint score (or with --grain): candidates by cosine that are put in order by it.
        index: a folder for the index; by default wholegrain/search in the user's cache folder.
        image_column: column of a table with the picture, if it has an unusual name.
        image_root: folder that paths of a table are relative to and may not leave, as in prepare.
        batch: pictures per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    model: Positional[str]
    pictures: Positional[str]
    query: Positional[str] = ""
    by: Path | None = None
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    html: Path | None = None
    grain: str = ""
    shortlist: int = 100
    index: Path | None = None
    image_column: str = ""
    image_root: Path | None = None
    batch: int = 64
    device: str = "auto"


def search(args: SearchArguments) -> None:
    """Find pictures by words, or by a picture, in any folder. Pictures are embedded once; later calls embed what is new or changed.

    wholegrain search ViT-B-32:openai photos "a dog on grass" -k 5 --html sheet.html

    The pictures themselves are only read. A query of several phrases says where each of them was found, if the model has patches.
    """
    import sys

    from wholegrain.data.listing import list_pictures
    from wholegrain.data.sources import SourceOptions
    from wholegrain.evaluation.named import load_any, split_grain, with_grain
    from wholegrain.progress import showing
    from wholegrain.training.distributed.processes import choose_device
    from wholegrain.workflows.search import SearchOptions
    from wholegrain.workflows.search import search as run

    if bool(args.query.strip()) == (args.by is not None):
        raise UserError('give either words, such as "a dog on grass", or a picture with --by beach.jpg')
    if min(args.k, args.shortlist, args.batch) < 1:
        raise UserError("-k, --shortlist and --batch must be at least 1")
    if args.html is not None and args.html.is_dir():
        raise UserError(f"--html {args.html} is a folder; name a file in it, such as {args.html / 'sheet.html'}")
    source = SourceOptions(args.image_column, image_root=args.image_root)
    options = SearchOptions(
        args.shortlist, True if args.html is not None and args.by is None else None, args.index, args.batch, source
    )
    name = with_grain(args.model, args.grain)
    with showing() as show:
        show("looking for pictures")
        listing = list_pictures(args.pictures, source)
        show("loading the model")
        loaded = load_any(name, choose_device(args.device))
        found = run(loaded, listing, args.by if args.by is not None else args.query, args.k, options=options, show=show)
        if args.html is not None:
            show("writing the contact sheet")
            found.to_html(args.html, name)
    for line in [*_what_was_read(found), *_untrained(split_grain(name)[0])]:
        print(line, file=sys.stderr)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for number, hit in enumerate(found.hits, 1):
        print("\n".join(_lines(number, hit, found, width)))
    if args.html is not None:
        print(f"written: {shown(args.html)}")
        print(
            f"next: open it in a browser{'; point at a phrase to see where it was found' if found.phrases else ''}",
            file=sys.stderr,
        )
    else:
        print(f"next: look at them: {_with_sheet(args)}", file=sys.stderr)


def _what_was_read(found: Search) -> list[str]:
    """What was passed over, could not be read, and was done to the index."""
    lines = [found.listing.passed_over_line] if found.listing.passed_over else []
    problems = [*found.listing.problems, *found.index.found]
    lines += [f"cannot be used: {shown(name)}: {one_line(why)}" for name, why in problems[:MOST_REASONS]]
    if len(problems) > MOST_REASONS:
        lines.append(f"cannot be used: {len(problems) - MOST_REASONS:,} more")
    if found.index.damaged:
        lines.append(f"{found.index.damaged:,} files of the index were damaged; their pictures were embedded again")
    return [*lines, f"{found.index.line} (index: {shown(found.index.folder)})", *found.notes]


def _untrained(model: str) -> list[str]:
    """A word about a bare name of open_clip, whose weights are random."""
    import open_clip

    bare = model.partition(",")[0] in open_clip.list_models()
    return [f"the weights of {model} are random, and so is the order; name some, such as {model}:openai"] if bare else []


def _lines(number: int, hit: Hit, found: Search, width: int) -> list[str]:
    """A hit: rank, score, path; below it the phrases with their places. Wrapped at ``width``, 0 for never."""
    indent = len(str(len(found.hits))) + 9
    head = f"{number:>{len(str(len(found.hits)))}}  {hit.score:6.3f} "
    lines = _wrapped(head, shown(str(hit.path or hit.name)), indent, width)
    if hit.where:
        said = "; ".join(f"{phrase}: {where}" for phrase, where in zip(found.phrases, hit.where, strict=True))
        lines += _wrapped(" " * indent, shown(said), indent, width)
    return lines


def _wrapped(head: str, text: str, indent: int, width: int) -> list[str]:
    room = max(width - indent, 20) if width else len(text) or 1
    parts = [text[start : start + room] for start in range(0, len(text), room)]
    return [head + parts[0], *(" " * indent + part for part in parts[1:])]


def _with_sheet(args: SearchArguments) -> str:
    asked = [args.query] if args.by is None else ["--by", str(args.by)]
    more = [] if args.k == 10 else ["-k", str(args.k)]
    more += ["--grain", args.grain] if args.grain else []
    more += ["--index", str(args.index)] if args.index is not None else []
    return shlex.join(["wholegrain", "search", args.model, args.pictures, *asked, *more, "--html", "sheet.html"])

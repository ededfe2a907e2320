"""``wholegrain explain``: where in a picture a model sees each word of a caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class ExplainArguments:
    """The words and options of ``wholegrain explain``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run.
        image: a picture's file.
        caption: what may be in it.
        out: the .png to write; why.png if neither is named.
        html: a page to write, with everything in one file.
        read_outs: how words are read out of patches: pooled, token, token_cosine, h_v, attention, gradient; all that the model has by default
            (docs/evaluation.md).
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    model: Positional[str]
    image: Positional[Path]
    caption: Positional[str]
    out: Path | None = None
    html: Path | None = None
    read_outs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="READ_OUT")] = ()
    device: str = "auto"


def explain(args: ExplainArguments) -> None:
    """A heat map of every word and noun phrase of a caption over a picture, by each read-out that the model has; branches, where it has them.

    wholegrain explain runs/latest dogs.jpg "a brown dog chases a ball" --html why.html
    """
    import sys

    from wholegrain.data.pictures import read_rgb, upright_rgb
    from wholegrain.errors import UserError
    from wholegrain.evaluation.read_outs.registry import check_names
    from wholegrain.files import keepable, shown
    from wholegrain.progress import showing
    from wholegrain.workflows.embedder import load

    out = Path("why.png") if args.out is None and args.html is None else args.out
    for path, suffix in ((out, ".png"), (args.html, ".html")):
        if path is not None:
            keepable(path)
            if path.suffix != suffix:
                raise UserError(f"{shown(path)} does not end in {suffix}; --out writes a .png and --html a .html.")
    check_names(args.read_outs)
    pixels = read_rgb(args.image, decode=upright_rgb)
    with showing() as show:
        show("loading the model")
        embedder = load(args.model, args.device)
        show("reading the picture")
        found = embedder.explain(pixels, args.caption, args.read_outs)
        show("drawing")
        written = [path for path in (out and found.save(out), args.html and found.to_html(args.html)) if path]
    for name, reason in found.left_out.items():
        print(f"left out: {name}. {reason}", file=sys.stderr)
    if found.unread:
        print(f"not read, for the model's context ends before: {' '.join(found.unread)}", file=sys.stderr)
    words, phrases = (f"{len(of)} {what}{'' if len(of) == 1 else 's'}" for of, what in ((found.words, "word"), (found.phrases, "phrase")))
    print(f"{words} and {phrases} by {', '.join(found.values)}; score {found.score:.3f}")
    print(f"written: {' and '.join(map(str, written))}")
    print("next: which of the read-outs is right, on data with regions: wholegrain evaluate MODEL --data DATA --suite grounding")

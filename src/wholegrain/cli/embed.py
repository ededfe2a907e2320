"""``wholegrain embed``: a model's vectors of pictures or texts, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    import numpy as np

    from wholegrain.data.listing import ListedPicture
    from wholegrain.progress import Show
    from wholegrain.workflows.broken_pictures import BrokenPictures
    from wholegrain.workflows.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """The words and options of ``wholegrain embed``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run; or file.py:function, which returns any other model.
        inputs: a folder of pictures, picture files, or one .txt (a text a line), .csv or .tsv of texts.
        out: the file to write: .parquet (name and vector), .npy (and names beside it), .safetensors, or .csv as Lightly reads it.
        column: column of a .csv or .tsv with the texts, if it has an unusual name.
        raw: vectors as the model gives them, in place of unit ones.
        batch: pictures per step; texts take four times as many.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    model: Positional[str]
    inputs: Positional[tuple[str, ...]]
    out: Path
    column: str = ""
    raw: bool = False
    batch: int = 64
    device: str = "auto"


def embed(args: EmbedArguments) -> None:
    """Vectors of pictures or texts. Products of unit vectors are the model's cosines; pictures that cannot be read are left out and named.

    wholegrain embed runs/latest photos --out photos.parquet
    wholegrain embed runs/latest captions.txt --out captions.npy
    """
    from wholegrain.evaluation.result_folders import weights_of
    from wholegrain.progress import showing
    from wholegrain.workflows.broken_pictures import BrokenPictures
    from wholegrain.workflows.embedder import load
    from wholegrain.workflows.inputs import is_texts, pictures_of, read_texts
    from wholegrain.workflows.vector_files import check_vector_file, names_beside, vector_file

    texts = read_texts(args.inputs[0], args.column) if is_texts(args.inputs) else []
    pictures = {} if texts else pictures_of(args.inputs)
    check_vector_file(args.out)
    broken = BrokenPictures()
    with showing() as show:
        show("loading the model")
        embedder = load(args.model, args.device)
        facts = {"model": args.model, "weights": weights_of(embedder.model), "unit": not args.raw, "of": "texts" if texts else "pictures"}
        with vector_file(args.out, embedder.width, facts) as file:
            for names, vectors_ND in _texts(embedder, texts, args, show) if texts else _pictures(embedder, pictures, args, broken, show):
                file.add(names, vectors_ND)
            show.clear()
            broken.check(len(pictures))
    what = f"{file.rows:,} {facts['of']}, {embedder.width} numbers each"
    print(f"written: {args.out} ({what}{f'; names in {names_beside(args.out)}' if args.out.suffix == '.npy' else ''})")
    print(f"next: {_next(args.out)}")


def _pictures(
    embedder: Embedder, pictures: dict[str, ListedPicture], args: EmbedArguments, broken: BrokenPictures, show: Show
) -> Iterator[tuple[list[str], np.ndarray]]:
    named = list(pictures)
    for places, vectors_ND in embedder.embed_batches(
        pictures.values(), batch_size=args.batch, normalize=not args.raw, broken=broken, progress=show
    ):
        yield [named[place] for place in places], vectors_ND.numpy()


def _texts(embedder: Embedder, texts: list[str], args: EmbedArguments, show: Show) -> Iterator[tuple[list[str], np.ndarray]]:
    import sys

    from wholegrain.progress import nowhere

    many, cut = 64 * args.batch, 0
    for start in range(0, len(texts), many):
        some = texts[start : start + many]
        show("texts", start, len(texts))
        cut += sum(embedder.cut(some))
        yield some, embedder.embed_texts(some, batch_size=4 * args.batch, normalize=not args.raw, progress=nowhere)
    if cut:
        print(f"{cut:,} of {len(texts):,} texts are longer than the model's context and were cut there", file=sys.stderr)


def _next(out: Path) -> str:
    if out.suffix == ".parquet":
        return f"pyarrow.parquet.read_table({str(out)!r}) in Python"
    if out.suffix == ".csv":
        return f"lightly.utils.io.load_embeddings({str(out)!r}) in Python"
    return f"numpy.load({str(out)!r}) in Python" if out.suffix == ".npy" else f"safetensors.numpy.load_file({str(out)!r}) in Python"

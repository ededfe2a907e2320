"""``wholegrain search``: which pictures show what a text says, or look like a picture, and where in them each phrase was found.

The cosine with the index gives the order, or where the model scores pairs jointly (a joint head, whole and grain) a shortlist, which that score then
orders, as in the evaluation's retrieval (:mod:`wholegrain.evaluation.tasks.shortlist`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wholegrain.data.listing import ListedPicture, Listing, list_pictures
from wholegrain.data.pictures import rgb_of
from wholegrain.data.preprocess import Box
from wholegrain.data.sources import SourceOptions
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel, PatchModel
from wholegrain.evaluation.features.encode import default_needs, encode_distinct, encode_image_batches
from wholegrain.evaluation.named import load_any
from wholegrain.evaluation.read_outs.registry import default_read_outs
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.similarity import index_vectors, similarity, unit
from wholegrain.features import TextFeatures
from wholegrain.progress import Show, nowhere
from wholegrain.report.heatmaps import content_words, patch_maps
from wholegrain.report.search_sheet import Found, SheetHead, write_search_sheet
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.training.distributed.processes import choose_device
from wholegrain.workflows.embedder import Embedder
from wholegrain.workflows.given_pictures import GivenPictures
from wholegrain.workflows.search.index import Index, bring_up_to_date
from wholegrain.workflows.search.nearest import nearest

Query = str | Path | Image.Image | np.ndarray
"""A text; or a picture: a path as :class:`~pathlib.Path`, a Pillow picture, uint8 RGB ``[H, W, 3]``."""
_PICTURES = 16
"""Pictures in memory at a time while maps are made: they may be large."""


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        shortlist: candidates by cosine that a model's joint score puts in order; at least k are.
        maps: show where phrases were found: a query's noun phrases, or its words where it has none. ``None`` does it for a query of
            several phrases.
        index: the folder of all indices; the user's cache folder by default (:func:`~wholegrain.workflows.search.index.index_home`).
        batch: pictures at a time.
        source: of tables: columns with unusual names, and the folder of relative paths.
    """

    shortlist: int = 100
    maps: bool | None = None
    index: Path | None = None
    batch: int = 64
    source: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        picture: which one.
        score: the model's own: the cosine, or its joint score.
        cosine: of the picture with the query.
        maps_QRC: float32, where each phrase of the search was found: a value for each patch; ``None`` where no maps were made.
    """

    picture: ListedPicture
    score: float
    cosine: float
    maps_QRC: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Of the picture: its path in the folder, or its key in a prepared data set."""
        return self.picture.name

    @property
    def path(self) -> Path | None:
        """The picture's file; ``None`` inside a shard."""
        return self.picture.path

    @property
    def where(self) -> tuple[str, ...]:
        """For each phrase where it was found, in words: ``"top left"``, ``"centre"``, ..."""
        return () if self.maps_QRC is None else tuple(place_in_words(map_RC) for map_RC in self.maps_QRC)


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        query: the text, or the picture's name.
        hits: the best first; equal scores in the order of the listing.
        listing, index: the pictures that were searched, and what was done to have their vectors.
        scored_by: what the scores are.
        phrases: what maps were made of.
        notes: sentences that the user should know: a text that was cut, a model without patches.
        model: that was searched with.
        asked: the picture that was asked with.
    """

    query: str
    hits: tuple[Hit, ...]
    listing: Listing
    index: Index
    scored_by: str
    phrases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: EvaluatedModel | None = field(default=None, repr=False, compare=False)
    asked: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_html(self, path: str | Path, model: str = "") -> Path:
        """Writes the contact sheet (:mod:`wholegrain.report.search_sheet`): one page that needs no other file and no network.

        Args:
            path: the file.
            model: the model's name, for the page.
        """
        seen = getattr(getattr(self.model, "preprocess", None), "visible_box", _all_of_it)
        found = [Found(hit.name, hit.score, hit.picture.pixels, hit.maps_QRC, hit.where, seen) for hit in self.hits]
        count = len(self.index.pictures)
        facts = f"{f'{model} · ' if model else ''}{len(self.hits):,} of {count:,} pictures of {self.listing.place} · score: {self.scored_by}"
        return write_search_sheet(Path(path), SheetHead(self.query, self.asked, facts, self.phrases, self.notes), found)


def _all_of_it(width: int, height: int) -> Box:
    return 0.0, 0.0, float(width), float(height)


def search(
    model: str | Path | Embedder | EvaluatedModel,
    pictures: str | Path | Listing,
    query: Query,
    k: int = 10,
    *,
    options: SearchOptions = SearchOptions(),
    show: Show = nowhere,
) -> Search:
    """The k pictures that fit a text, or a picture, best. What is new or changed among them is embedded first, and kept.

    Args:
        model: a name, a folder or a run, with ``,grain=1`` behind it to score by whole and grain; or what
            :func:`wholegrain.load` gives, or a model.
        pictures: whatever :func:`~wholegrain.data.listing.list_pictures` reads: a folder with its folders, a prepared data set, a table.
        query: a text as ``str``, or a picture in any other form.
        k: how many; all, if there are fewer.

    Raises:
        UserError: the query is empty, k is below 1, there are no pictures, or none that can be read.

    Example::

        for hit in search("ViT-B-32:openai", "photos", "a dog on grass", k=5).hits:
            print(f"{hit.score:.3f}", hit.path)
    """
    if k < 1 or options.shortlist < 1 or options.batch < 1:
        raise UserError(f"k is {k}, the shortlist {options.shortlist} and the batch {options.batch}; each must be at least 1")
    if isinstance(query, str) and not query.strip():
        raise UserError('the query is empty; say what the pictures should show, such as "a dog on grass"')
    asked_by = None if isinstance(query, str) else rgb_of(query, 0, "give another picture")  # said before anything is embedded
    show("looking for pictures", 0, 0)
    listing = pictures if isinstance(pictures, Listing) else list_pictures(pictures, options.source)
    loaded = _loaded(model, show)
    index = bring_up_to_date(loaded, listing, options.index, batch=options.batch, show=show)
    if not index.pictures:
        name, why = index.unreadable[0]
        raise UserError(
            f"none of the {len(listing):,} pictures of {listing.place} can be read (the first: {name} {why}); give others"
        )
    if asked_by is not None:
        name = str(query) if isinstance(query, Path) else "a picture"
        return Search(name, _alike(loaded, index, asked_by, k), listing, index, "cosine", model=loaded, asked=asked_by)
    assert isinstance(query, str)
    return _by_text(loaded, index, query, k, options, show, listing)


def _loaded(model: str | Path | Embedder | EvaluatedModel, show: Show) -> EvaluatedModel:
    if isinstance(model, Embedder):
        return model.model
    if not isinstance(model, str | Path):
        return model
    show("loading the model", 0, 0)
    return load_any(str(model), choose_device())


def _alike(model: EvaluatedModel, index: Index, pixels_HWC: np.ndarray, k: int) -> tuple[Hit, ...]:
    asked = GivenPictures([pixels_HWC], 0, skip=False)
    (image,) = encode_image_batches(model, asked, asked.keys, default_needs(model) & {"branches"})
    places, cosines = nearest(unit(index.vectors_ND), unit(index_vectors(image))[0], k)
    return tuple(Hit(index.pictures[n], score, score) for n, score in zip(places, cosines, strict=True))


def _by_text(
    model: EvaluatedModel, index: Index, query: str, k: int, options: SearchOptions, show: Show, listing: Listing
) -> Search:
    text, cut_N = encode_distinct(model, [query], default_needs(model), batch=1)
    notes = ["the query is longer than the text that the model reads, and its end was cut off"] if bool(cut_N.any()) else []
    joint = getattr(model, "score", None) is not None
    places, cosines = nearest(index.vectors_ND, unit(text.pooled_ND)[0], max(k, options.shortlist) if joint else k)
    hits = [Hit(index.pictures[n], cosine, cosine) for n, cosine in zip(places, cosines, strict=True)]
    scored_by = "cosine"
    if joint:
        scored_by = str(getattr(model, "scored_by", "joint score"))
        hits = _in_order(model, hits, text, options.batch, show)
    hits, phrases = hits[:k], phrases_of(query)
    if options.maps or (options.maps is None and len(phrases) > 1):
        try:
            hits = list(_with_maps(model, hits, phrases, show))
        except NotSupportedError as reason:
            phrases, notes = (
                (),
                [*notes, f"where phrases were found is not shown: {str(reason)[:1].lower()}{str(reason)[1:].rstrip('.')}"],
            )
    else:
        phrases = ()
    return Search(query, tuple(hits), listing, index, scored_by, phrases, tuple(notes), model)


def phrases_of(query: str) -> tuple[str, ...]:
    """The noun phrases of a query, each once; its content words where it has none, or all of it.

    Example:
        >>> phrases_of("a dog on green grass"), phrases_of("running")
        (('a dog', 'green grass'), ('running',))
    """
    (found,) = NounPhrases()([query])
    words = (word.text[word.start : word.end] for word in content_words(query))
    return tuple(dict.fromkeys(found or words)) or (query.strip(),)


def place_in_words(map_RC: np.ndarray) -> str:
    """The ninth of the picture in which a map has its greatest mean: one patch alone may be chance.

    Example:
        >>> place_in_words(np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]])), place_in_words(np.array([[0, 0], [0, 1]]))
        ('top', 'bottom right')
    """
    ninths = torch.nn.functional.adaptive_avg_pool2d(torch.as_tensor(map_RC, dtype=torch.float32)[None], 3)
    down, across = divmod(int(ninths.argmax()), 3)
    return " ".join(filter(None, (("top", "", "bottom")[down], ("left", "", "right")[across]))) or "centre"


def _in_order(model: EvaluatedModel, hits: Sequence[Hit], text: TextFeatures, batch: int, show: Show) -> list[Hit]:
    """A shortlist by the joint score; equal scores keep the cosine's order."""
    shortlist = GivenPictures([hit.picture for hit in hits], 0, skip=False)
    scores: list[Tensor] = []

    def progress(_: str, done: int, total: int) -> None:
        show("scoring the shortlist", done, total)

    for image in encode_image_batches(model, shortlist, shortlist.keys, default_needs(model), batch=batch, progress=progress):
        scores.append(similarity(image, text, model)[:, 0])
    scored = [replace(hit, score=score) for hit, score in zip(hits, torch.cat(scores).tolist(), strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)


def _with_maps(model: EvaluatedModel, hits: Sequence[Hit], phrases: Sequence[str], show: Show) -> Iterator[Hit]:
    read_out = default_read_outs(model)[-1].name
    for start in range(0, len(hits), _PICTURES):
        show("looking for phrases", start, len(hits))
        some = hits[start : start + _PICTURES]
        maps = patch_maps(cast(PatchModel, model), [hit.picture.pixels() for hit in some], phrases, read_out=read_out)
        yield from (replace(hit, maps_QRC=maps_QRC) for hit, maps_QRC in zip(some, maps, strict=True))

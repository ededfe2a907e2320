"""Why a caption fits a picture: where the model sees each word and each noun phrase, by each read-out that it has.

A read-out either asks with a word as it stands in the caption (those that look at tokens) or, where it knows whole texts alone, with the word by
itself (:attr:`wholegrain.evaluation.read_outs.contract.ReadOut.reads_parts`).
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.features.encode import default_needs, device_of, encode_texts, evaluating
from wholegrain.evaluation.features.regions import Box
from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.evaluation.read_outs.registry import COMMON, READ_OUTS, check_names, looks, trained_read_out
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.similarity import similarity, unit
from wholegrain.files import aside, disk_errors
from wholegrain.report.heatmaps import COLOURS, colour_stops, overlay
from wholegrain.report.page import page_environment, write_page
from wholegrain.report.pictures import data_uri, seen_part
from wholegrain.text.words.phrases import NounPhrases

_SIDE, _COLUMNS = 192, 8


@dataclass(frozen=True)
class Explanation:
    """Where a model sees the parts of a caption in a picture.

    Attributes:
        caption: as it was given.
        words: ``[L]`` its words, in order; those beyond the model's context are in ``unread``.
        phrases: ``[M]`` its noun phrases.
        grid: rows and columns of patches, P together, row by row over what the model sees of the picture (``seen``).
        read_out: the name of the read-out that the model was trained for, or else of the first that it has.
        values: read-out -> float32 ``[L + M, P]``: of the words, then of the phrases. Cosines, weights or products: see the read-out.
        sentences: read-out -> what its values are.
        score: of picture and caption, the model's own.
        branches: float32 ``[1 + M, H]``: cosines of the caption, then of its phrases, with each branch; ``None`` for a model with one vector.
        picture: uint8 RGB ``[h, w, 3]``, as it was given.
        seen: x0, y0, x1, y1, the part of it that the model sees, in pixels.
        unread: words beyond the model's context.
        left_out: read-out -> why the model has it not.
    """

    caption: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]
    grid: tuple[int, int]
    read_out: str
    values: Mapping[str, np.ndarray]
    sentences: Mapping[str, str]
    score: float
    branches: np.ndarray | None
    picture: np.ndarray
    seen: Box
    unread: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def maps(self) -> np.ndarray:
        """float32 ``[L, P]``: each word by :attr:`read_out`."""
        return self.values[self.read_out][: len(self.words)]

    @property
    def phrase_maps(self) -> np.ndarray:
        """float32 ``[M, P]``: each phrase by :attr:`read_out`."""
        return self.values[self.read_out][len(self.words) :]

    def save(self, path: str | Path, read_outs: Sequence[str] = ()) -> Path:
        """Writes the picture and the maps as a PNG; all read-outs, or those named. The maps of a read-out have one scale. Gives the path.

        Raises:
            UserError: the file cannot be written, or the explanation has no such read-out.
        """
        path, drawn = Path(path), self._png(read_outs)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside(path) as part:
                part.write_bytes(drawn)
        return path

    def to_html(self, path: str | Path) -> Path:
        """Writes a page that holds everything in one file; gives its path."""
        return write_page(Path(path), page_environment().get_template("explanation.html.j2").render(self._shown(), whole=True))

    def _repr_html_(self) -> str:
        return page_environment().get_template("explanation_maps.html.j2").render(self._shown(), whole=False)

    def _repr_png_(self) -> bytes:
        return self._png([self.read_out])

    def drawn(self, read_out: str) -> list[tuple[str, str, np.ndarray]]:
        """Of each word and phrase what it is, its greatest value, and its map over the picture; all maps on one scale."""
        values_RP, names = self.values[read_out], (*self.words, *(f"“{phrase}”" for phrase in self.phrases))
        scale = float(values_RP.min()), float(values_RP.max())
        photo_HWC = seen_part(self.picture, self.seen, _SIDE)  # once: it may be large, and words are many
        maps = [overlay(photo_HWC, map_P.reshape(self.grid), scale=scale, side=_SIDE) for map_P in values_RP]
        return list(zip(names, [_number(map_P.max()) for map_P in values_RP], maps, strict=True))

    def said(self, read_out: str) -> str:
        """What the colours of a read-out's maps are."""
        values_RP = self.values[read_out]
        return f"{self.sentences[read_out]}, dark {_number(values_RP.min())} to bright {_number(values_RP.max())}"

    def finding(self) -> str:
        """One sentence: which of its parts stands out most in the picture and which least, by :attr:`read_out`."""
        parts = list(self.phrases) or list(self.words)
        if not parts:
            return "The caption has no words that the model reads."
        most_R = self.values[self.read_out].max(axis=1)[-len(parts) :]
        first, last = (int(place) for place in (most_R.argmax(), most_R.argmin()))
        said = f"“{parts[first]}” stands out most ({_number(most_R[first])})"
        return f"{said}." if first == last else f"{said}, “{parts[last]}” least ({_number(most_R[last])})."

    def _shown(self) -> dict[str, object]:
        ways = [
            {"name": name, "sentence": self.said(name), "own": name == self.read_out,
             "maps": [{"said": said, "most": most, "uri": data_uri(drawn)} for said, most, drawn in self.drawn(name)]}
            for name in self.values
        ]  # fmt: skip
        branches = None if self.branches is None else list(zip((self.caption, *self.phrases), self.branches.tolist(), strict=True))
        picture = data_uri(seen_part(self.picture, self.seen, 2 * _SIDE))
        return {"it": self, "ways": ways, "branches": branches, "photo": picture, "stops": colour_stops(), "colours": COLOURS}

    def _png(self, read_outs: Sequence[str]) -> bytes:
        odd = [name for name in read_outs if name not in self.values]
        if odd:
            raise UserError(f"The explanation has no read-out {odd[0]!r}; it has {', '.join(self.values)}.")
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks; the page has them all
            _figure(self, list(read_outs) or list(self.values)).savefig(file, format="png", dpi=110)
        return file.getvalue()


def _number(x: float) -> str:
    """Three digits.

    Example:
        >>> _number(-0.012345), _number(8615.7)
        ('−0.0123', '8,616')
    """
    return (f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}").replace("-", "−")


def _figure(it: Explanation, names: Sequence[str]) -> Figure:
    """The picture above, below it a block of maps for each read-out."""
    down = -(-(len(it.words) + len(it.phrases)) // _COLUMNS)
    across = max(4, -(-(len(it.words) + len(it.phrases)) // down))
    heights = [2.3] + [0.45 + 2.0 * down] * len(names)
    figure = Figure(figsize=(1.6 * across, sum(heights)), layout="constrained")
    top, *blocks = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    photo, said = top.subplots(1, 2, width_ratios=[1, across / 1.6])
    photo.imshow(seen_part(it.picture, it.seen, 2 * _SIDE))
    unread = f"\nnot read, for the model's context ends before: {' '.join(it.unread)}" if it.unread else ""
    text = f"{textwrap.fill(it.caption, 14 * across)}\nscore {_number(it.score)}{textwrap.fill(unread, 14 * across)}"
    said.text(0, 0.5, text, va="center", fontsize=11, parse_math=False)
    for axes in (photo, said):
        axes.set_axis_off()
    for block, name in zip(blocks, names, strict=True):
        own = " (what the model was trained for)" if name == it.read_out else ""
        block.suptitle(textwrap.fill(f"{name}{own}: {it.said(name)}", 27 * across), fontsize=9, x=0.01, ha="left", parse_math=False)
        for axes, drawn in zip_longest(block.subplots(down, across, squeeze=False).ravel(), it.drawn(name)):
            _draw(axes, drawn)
    return figure


def _draw(axes: Axes, drawn: tuple[str, str, np.ndarray] | None) -> None:
    """A map with its word above and its greatest value below; nothing in a cell to spare."""
    axes.set_xticks([])
    axes.set_yticks([])
    if drawn is None:
        axes.set_axis_off()
        return
    said, most, picture = drawn
    axes.imshow(picture)
    axes.set_title(textwrap.fill(said, 20), fontsize=9, parse_math=False)
    axes.set_xlabel(f"up to {most}", fontsize=7, color="0.35")


def explain(model: PatchModel, pixels_HWC: np.ndarray, caption: str, read_outs: Sequence[str] = ()) -> Explanation:
    """Reads every word and noun phrase of a caption out of the patches of one picture.

    Args:
        pixels_HWC: uint8 RGB; the model's own preprocessing is applied.
        read_outs: names; by default all that the model can be read out by.

    Raises:
        NotSupportedError: the model gives no patches, or cannot be read out by one that is named.
        UserError: the caption has no words that the model reads, or there is no such read-out.
    """
    places, unread = _words_read(model, caption)
    words = [caption[start:end] for start, end in places]
    phrases = _phrases(caption, places[-1][1])
    asked = [Phrase(caption, start, end) for start, end in (*places, *phrases)]
    view_1CHW = torch.as_tensor(np.asarray(model.preprocess.image(pixels_HWC)))[None].to(device_of(model))
    values, sentences, left_out, grid = _read(model, view_1CHW, asked, check_names(read_outs))
    own = trained_read_out(model)
    score, branches = _scores(model, view_1CHW, caption, [caption[start:end] for start, end in phrases])
    return Explanation(
        caption, tuple(words), tuple(caption[start:end] for start, end in phrases), grid, own if own in values else next(iter(values)),
        values, sentences, score, branches, pixels_HWC, model.preprocess.visible_box(pixels_HWC.shape[1], pixels_HWC.shape[0]),
        unread, left_out,
    )  # fmt: skip


def _words_read(model: PatchModel, caption: str) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    """Start and end of each word that the model reads, and the words behind the end of its context."""
    places = [match.span() for match in re.finditer(r"[\w'’-]*\w[\w'’-]*", caption)]
    if not places:
        raise UserError(f"The caption {caption!r} has no words; give some.")
    spans = getattr(model.tokenizer, "word_spans", None)
    if spans is None or not bool(torch.as_tensor(model.tokenizer.encode([caption]).cut_N).any()):
        return places, ()
    last = max((end for _, end, *_ in spans(caption)), default=0)
    read = [place for place in places if place[1] <= last]
    if not read:
        raise UserError(f"The caption's first word {caption[slice(*places[0])]!r} is longer than the model's context; give shorter words.")
    return read, tuple(caption[start:end] for start, end in places[len(read) :])


def _phrases(caption: str, last: int) -> list[tuple[int, int]]:
    """Start and end of each noun phrase before ``last``, in order."""
    found, at = [], 0
    for phrase in NounPhrases()([caption])[0]:
        start = caption.find(phrase, at)
        if start >= 0 and start + len(phrase) <= last:
            found.append((start, start + len(phrase)))
            at = start + len(phrase)
    return found


def _read(
    model: PatchModel, view_1CHW: torch.Tensor, asked: Sequence[Phrase], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str], tuple[int, int]]:
    """Values and sentences by read-out, why the others are left out, and the grid."""
    values: dict[str, np.ndarray] = {}
    sentences: dict[str, str] = {}
    left_out: dict[str, str] = {}
    grid = (0, 0)
    for name in dict.fromkeys(names or READ_OUTS):
        try:
            reader = READ_OUTS[name](model)
            (look,), grid = looks([reader], view_1CHW)
            texts = asked if reader.reads_parts else [Phrase(one.text[one.start : one.end]) for one in asked]
            values[name] = reader.all_maps(look, reader.ask(texts), 1)[0].mT.float().numpy()
            sentences[name] = reader.sentence
        except NotSupportedError as reason:
            if names or name == COMMON:  # a model without that one has no patches
                raise
            left_out[name] = str(reason)
    return values, sentences, left_out, grid


def _scores(model: PatchModel, view_1CHW: torch.Tensor, caption: str, phrases: Sequence[str]) -> tuple[float, np.ndarray | None]:
    """The model's own score of the caption, and the cosines of caption and phrases with each branch."""
    needs = default_needs(model)
    with evaluating(model):
        image = model.encode_images(view_1CHW, needs - {"phrases"}).to_cpu()
    score = float(similarity(image, encode_texts(model, [caption], needs), model)[0, 0])
    if image.branches_BHD is None or image.branches_BHD.shape[1] < 2:
        return score, None
    texts_RD = unit(encode_texts(model, [caption, *phrases], frozenset()).pooled_ND)
    return score, (texts_RD @ unit(image.branches_BHD[0]).T).numpy()

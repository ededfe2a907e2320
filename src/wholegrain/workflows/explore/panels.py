"""What each panel of the app shows, as HTML: functions of a visitor's input, which know nothing of the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jinja2 import Template

from wholegrain.errors import MachineError, UserError
from wholegrain.evaluation.read_outs.registry import COMMON, trained_read_out
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.progress import Show, nowhere
from wholegrain.report.explanation import Explanation
from wholegrain.report.heatmaps import colour_stops
from wholegrain.report.page import page_environment
from wholegrain.report.pictures import data_uri, seen_part
from wholegrain.workflows.embedder import Embedder
from wholegrain.workflows.explore.branches import branch_rows
from wholegrain.workflows.explore.gallery import Gallery, Neighbours
from wholegrain.workflows.explore.hard_negatives import Contest, NegativeMaker
from wholegrain.workflows.explore.limits import LONGEST, picture_at
from wholegrain.workflows.explore.scores import number, score_table, similarities
from wholegrain.workflows.explore.twins import TRIES, Setting, breaking_setting, make_pair, score_pair, told_apart, verdict

OWN = "each model's own"
"""In the place of a read-out's name: the one that a model was trained for."""
DRAWS = 20
"""Drawings of the same facts that are counted."""
_THUMB, _TWIN = 160, 256
_ASKED = 2048  # as a PNG, less than limits.MOST_BYTES whatever the picture
_HARDEST = ("swap_attribute", "swap_object", "relation", "count")


class Panels:
    """The models and the pictures that they are asked about.

    Args:
        models: at most :data:`~wholegrain.workflows.explore.limits.MOST_MODELS`, loaded.
        gallery: pictures to choose from and to find.
        size: of drawn pictures, in pixels.
    """

    def __init__(self, models: Sequence[Embedder], gallery: Gallery, size: int) -> None:
        self.models, self.gallery, self.size = list(models), gallery, size
        self._maker = NegativeMaker(gallery.texts)
        self._near = [Neighbours(model, gallery) for model in models]
        self._ended = False

    def end(self) -> None:
        """Lets what is being worked out come to nothing, so that a server need not wait for it."""
        self._ended = True

    def _until_end(self, show: Show) -> Show:
        def shown(what: str, done: int = 0, total: int = 0) -> None:
            if self._ended:
                raise UserError("The app has ended; start it again.")
            show(what, done, total)

        return shown

    def warm_up(self) -> None:
        """Loads what a first call would wait for."""
        self._maker.of("a red cup left of two blue cups")

    def suggested(self, place: int) -> str:
        """Captions to begin with: a true one of a picture with a false one of a kind that is easily lost, or two that may fit anything."""
        said = [line for text in self.gallery.captions[place] if (line := " ".join(text.split()))]
        if not said:
            return "a photo of a person\na photo of a place"
        first = next((text for text in said if len(text) <= LONGEST), said[0][:LONGEST].rsplit(" ", 1)[0])
        made = {row.kind: row.text for row in self._maker.of(first) if len(row.text) <= LONGEST}
        return "\n".join([first, *[made[kind] for kind in (*_HARDEST, *made) if kind in made][:1]])

    def asked(self, place: int) -> np.ndarray:
        """A picture of the gallery to ask about, its longer side at most 2,048 pixels: a file of a larger one could be more than the app reads."""
        pixels_HWC = self.gallery.pictures[place].pixels()
        return pixels_HWC if max(pixels_HWC.shape[:2]) <= _ASKED else seen_part(pixels_HWC, side=_ASKED)

    def scores(self, path: str | None, captions: Sequence[str], caption: str) -> str:
        """Every model's scores of some captions, and false versions of one of them."""
        pixels_HWC = picture_at(path)
        negatives, n = tuple(self._maker.of(caption)), len(captions)
        scores_MN = similarities(self.models, pixels_HWC, [*captions, caption, *(row.text for row in negatives)])
        table = score_table(self.models, captions, scores_MN[:, :n])
        found = Contest(caption, table.models, negatives, scores_MN[:, n], scores_MN[:, n + 1 :])
        return _template("explore_scores.html.j2").render(table=table, contest=found, number=number)

    def why(self, path: str | None, caption: str, read_out: str = OWN, show: Show = nowhere) -> str:
        """A map for each word of a caption by every model, and what the branches of a model find."""
        pixels_HWC = picture_at(path)
        looks, read = list[dict[str, object]](), list[Explanation]()
        without: dict[str, str] = {}
        for model, near in zip(self.models, self._near, strict=True):
            try:
                it = _explained(model, pixels_HWC, caption, read_out)
            except UserError as reason:
                without[model.name] = str(reason)
            else:
                read.append(it)
                looks.append({**_look(model.name, it), "rows": branch_rows(near, pixels_HWC, show=self._until_end(show))})
        words = max((_words(it) for it in read), key=len, default=[])
        first, _ = max(words, key=lambda one: (one[0].startswith("p"), len(one[1])), default=("", ""))
        return _template("explore_why.html.j2").render(
            looks=looks, without=without, caption=caption, words=words, first=first, place=self.gallery.place, number=number
        )

    def neighbours(self, path: str | None, caption: str, by_caption: bool, show: Show = nowhere) -> str:
        """What every model finds near to a picture, or to a caption."""
        if by_caption:
            found = [near.of_text(caption, show=self._until_end(show)) for near in self._near]
        else:
            pixels_HWC = picture_at(path)
            found = [near.of_picture(pixels_HWC, show=self._until_end(show)) for near in self._near]
        places = {place for near in found for place, _ in near.pictures}
        return _template("explore_neighbours.html.j2").render(
            found=found, uris={place: data_uri(self.small(place)) for place in places}, names=self.gallery.names, place=self.gallery.place,
            asked=f"“{caption}”" if by_caption else "the picture", has_captions=any(self.gallery.captions), number=number,
        )  # fmt: skip

    def twins(self, setting: Setting, *, count: bool = False, show: Show = nowhere) -> str:
        """Two pictures, and who tells them apart; with ``count`` also in how many drawings of the same facts."""
        pair = make_pair(setting)
        scores = score_pair(self.models, pair, self.size)
        counts = told_apart(self.models, setting, self.size, draws=DRAWS, show=self._until_end(show)) if count else []
        pictures = [data_uri(seen_part(pixels_HWC, side=_TWIN)) for pixels_HWC in pair.pixels(self.size)]
        return _template("explore_twins.html.j2").render(
            sentence="; ".join(map(verdict, scores)) + ".", pictures=pictures, captions=pair.texts, scores=scores, draws=DRAWS,
            counts=list(zip((model.name for model in self.models), counts, strict=True)) if count else [],
        )  # fmt: skip

    def broken(self, twin: str, seed: int, show: Show = nowhere) -> Setting:
        """A pair at which the first model fails and another, if there is one, does not.

        Raises:
            UserError: none was found.
        """
        found = breaking_setting(self.models, twin, self.size, np.random.default_rng(seed), show=self._until_end(show))
        if found is None:
            raise UserError(f"{self.models[0].name} told all of {TRIES} pairs apart; try another difference.")
        return found

    def small(self, place: int) -> np.ndarray:
        """A picture of the gallery, its longer side 160 pixels."""
        return seen_part(self.gallery.pictures[place].pixels(), side=_THUMB)


def _explained(model: Embedder, pixels_HWC: np.ndarray, caption: str, read_out: str) -> Explanation:
    """By a read-out; by the common one where a model has not the one that it was trained for."""
    if read_out != OWN:
        return model.explain(pixels_HWC, caption, [read_out])
    try:
        return model.explain(pixels_HWC, caption, [trained_read_out(model.model)])
    except NotSupportedError:
        return model.explain(pixels_HWC, caption, [COMMON])


def _look(model: str, it: Explanation) -> dict[str, object]:
    photo_HWC = seen_part(it.picture, it.seen, 320)
    return {
        "model": model, "it": it, "said": it.said(it.read_out), "photo": data_uri(photo_HWC), "width": photo_HWC.shape[1], "height": photo_HWC.shape[0],
        "maps": [(key, said, most, data_uri(map_HWC)) for (key, _), (said, most, map_HWC) in zip(_words(it), it.drawn(it.read_out), strict=True)],
        "branches": None if it.branches is None else list(zip((it.caption, *it.phrases), it.branches.tolist(), strict=True)),
    }  # fmt: skip


def _words(it: Explanation) -> list[tuple[str, str]]:
    """The words of a caption, then its phrases: (a name that is the same for all models, the text). What a model does not read is at the end of each."""
    return [(f"w{n}", word) for n, word in enumerate(it.words)] + [(f"p{n}", f"“{phrase}”") for n, phrase in enumerate(it.phrases)]


def told(answer: Callable[[], str], unforeseen: Callable[[Exception], str]) -> str:
    """A panel's HTML, or the one sentence in which it is refused.

    Args:
        unforeseen: says what happened, of an error that nobody thought of.
    """
    try:
        return answer()
    except (UserError, MachineError) as reason:
        return refusal(str(reason))
    except Exception as error:
        return refusal(unforeseen(error))


def refusal(sentence: str) -> str:
    """A sentence in the place of an answer."""
    return _template("explore_refusal.html.j2").render(sentence=sentence)


def style() -> str:
    """The app's CSS."""
    return _template("explore.css.j2").render(stops=colour_stops())


@lru_cache(maxsize=16)
def _template(name: str) -> Template:
    return page_environment().get_template(name)

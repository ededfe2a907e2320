"""A twin on the terminal: two pictures in half blocks, two captions, the four scores, and where the model sees a phrase.

A character cell is about twice as high as wide, so the half block ▀ with one colour above and one below shows two square pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wholegrain.data.record import Twin
from wholegrain.evaluation.contract import EvaluatedData, PatchModel
from wholegrain.evaluation.features.encode import default_needs, encode_keys, encode_texts
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.blind import words
from wholegrain.report.examples import Scores
from wholegrain.report.heatmaps import COLOURS, content_phrases, patch_maps, phrase_overlay
from wholegrain.report.pictures import seen_part
from wholegrain.report.words import plain

COLUMNS = 32
_SHADES = " ░▒▓█"  # where there are no colours, from dark to light


def show_twin(
    console: Console, model: PatchModel, dataset: EvaluatedData, twin: Twin, *, phrase: str | None = None, columns: int = COLUMNS
) -> RenderableType:
    """What a model makes of a twin, to be printed by the caller; nothing is printed here.

    Args:
        console: only asked for its width and colours: a narrow one gets narrower pictures, one without colours gets shades.
        phrase: whose heat map is shown beside the pictures; by default the first noun phrase that tells the captions apart, else the
            first. A model without patches gets no heat maps.
        columns: width of a picture in characters, at most.

    Example::

        console.print(show_twin(console, model, dataset, dataset.twins[0]))
    """
    scores = twin_scores(model, dataset, twin)
    pixels = [dataset.pixels(key) for key in twin.keys]
    chosen = phrase or telling_phrase(dataset, twin)
    shades = console.color_system is None
    heats, scale = _heats(model, dataset, twin, pixels, chosen, shades)
    width = max(8, min(columns, (console.width - 8) // (4 if heats else 2)))
    pictures = [half_blocks(seen_part(p, side=4 * width), width, shades=shades) for p in pixels]
    maps = [half_blocks(heat, width, shades=shades) for heat in heats]
    body: list[RenderableType] = [_pictures(pictures, maps, chosen, scale), Text()]
    body += [Text.assemble((f" caption {'AB'[i]}  ", "bold"), twin.captions[i]) for i in (0, 1)]
    body += [Text(), _matrix(scores)]
    return Panel(Group(*body), title=f"{plain(twin.kind)}: two pictures, two captions", title_align="left", expand=False)


def twin_scores(model: PatchModel, dataset: EvaluatedData, twin: Twin) -> Scores:
    """The four scores of a twin, made as the evaluation makes them."""
    needs = default_needs(model)
    scorer = Scorer(encode_keys(model, dataset, twin.keys, needs), encode_texts(model, list(twin.captions), needs), model)
    (a, b), (c, d) = scorer.rows(0, 2).tolist()
    return Scores(twin.kind, ((a, b), (c, d)))


def telling_phrase(dataset: EvaluatedData, twin: Twin) -> str | None:
    """The first noun phrase of caption A that caption B lacks, else the first at all; ``None`` for captions without one."""
    nouns = sorted({w for key in twin.keys for region in dataset.record(key).regions for w in words(region.phrase)[-1:]})
    one, other = (content_phrases(caption, nouns) for caption in twin.captions)
    return next((phrase for phrase in one if phrase not in other), next(iter(one), None))


def half_blocks(pixels_HWC: np.ndarray, columns: int, *, shades: bool = False) -> Text:
    """A picture as lines of ``columns`` characters; ``shades`` uses five densities in place of colours.

    Example:
        >>> half_blocks(np.full((4, 4, 3), 255, np.uint8), 3, shades=True).plain
        '███\\n███'
    """
    height, width = pixels_HWC.shape[:2]
    rows = max(1, round(columns * height / width / 2))
    small = np.asarray(Image.fromarray(pixels_HWC).resize((columns, 2 * rows), Image.Resampling.BOX))
    text = Text(no_wrap=True, end="")
    for row in range(rows):
        if row:
            text.append("\n")
        for upper, lower in zip(small[2 * row].tolist(), small[2 * row + 1].tolist(), strict=True):
            if shades:
                light = (sum(upper) + sum(lower)) / (6 * 255)
                text.append(_SHADES[min(len(_SHADES) - 1, int(light * len(_SHADES)))])
            else:
                text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
    return text


def _heats(
    model: PatchModel, dataset: EvaluatedData, twin: Twin, pixels: Sequence[np.ndarray], phrase: str | None, shades: bool
) -> tuple[list[np.ndarray], tuple[float, float]]:
    if phrase is None:
        return [], (0.0, 0.0)
    try:
        maps = patch_maps(model, pixels, [phrase])[:, 0]
    except NotSupportedError:
        return [], (0.0, 0.0)
    scale = float(maps.min()), float(maps.max())
    found = []
    for key, picture, map_RC in zip(twin.keys, pixels, maps, strict=True):
        if shades:  # the map alone: five densities cannot show a picture below it
            share_RC = (map_RC - scale[0]) / max(scale[1] - scale[0], 1e-9)
            smooth = Image.fromarray(share_RC.astype(np.float32)).resize((4 * COLUMNS, 4 * COLUMNS), Image.Resampling.BICUBIC)
            found.append(np.repeat((255 * np.asarray(smooth).clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2))
            continue
        found.append(phrase_overlay(model, dataset.record(key), picture, map_RC, phrase, scale))
    return found, scale


def _pictures(pictures: list[Text], maps: list[Text], phrase: str | None, scale: tuple[float, float]) -> Table:
    grid = Table.grid(padding=(0, 1))
    names = [Text(f"picture {name}", "bold") for name in "AB"]
    if not maps:
        grid.add_row(*names)
        grid.add_row(*pictures)
        return grid
    legend = Text(f"“{phrase}” (pooled) ")
    grid.add_row(names[0], legend, names[1], Text.assemble(f"{scale[0]:.2f} ", _legend(), f" {scale[1]:.2f}"))
    grid.add_row(pictures[0], maps[0], pictures[1], maps[1])
    return grid


def _legend(cells: int = 10) -> Text:
    text = Text()
    for x in np.linspace(0, 1, cells):
        red, green, blue = (round(255 * v) for v in matplotlib.colormaps[COLOURS](x)[:3])
        text.append("█", Style(color=Color.from_rgb(red, green, blue)))
    return text


def _matrix(scores: Scores) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 1))
    for name in ("", "caption A", "caption B", "picks"):
        table.add_column(name, justify="left")
    for i in (0, 1):
        cells = []
        for j in (0, 1):
            right = scores.right(i, j)
            cells.append(
                Text(f"{scores.shown(i, j)} {'✓' if right else '✗'}", f"{'bold ' if i == j else ''}{'green' if right else 'red'}")
            )
        own, rival = scores.values[i][i], scores.values[i][1 - i]
        picks = "both" if own == rival else f"caption {'AB'[i if own > rival else 1 - i]}"
        table.add_row(
            Text(f"picture {'AB'[i]}", "bold"),
            *cells,
            Text(f"{picks} {'✓' if own > rival else '✗'}", "green" if own > rival else "red"),
        )
    told = scores.group
    table.add_row("", "", "", Text("told apart" if told else "not told apart", "bold green" if told else "bold red"))
    return table

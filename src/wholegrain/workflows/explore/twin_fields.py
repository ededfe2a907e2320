"""The tab in which a visitor sets two pictures that differ in one fact, and sees who tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import TypeAlias

import gradio as gr
import numpy as np

from wholegrain.data.scenes.captions import RELATION_WORDS
from wholegrain.data.scenes.world import COLOURS, FILLS, SIZES, World
from wholegrain.errors import UserError
from wholegrain.workflows.explore.fields import QUEUE, shown
from wholegrain.workflows.explore.panels import DRAWS, Panels, told
from wholegrain.workflows.explore.twins import MOST_DRAWS, TWINS, Setting, make_pair, random_setting

Control: TypeAlias = gr.Radio | gr.Dropdown | gr.Slider
_NAMES = [field.name for field in fields(Setting)]


class TwinTab:
    """Fields for a :class:`~wholegrain.workflows.explore.twins.Setting`, buttons, and the panel, in the tab that is open.

    Attributes:
        controls: the fields, in the order of the setting's.
        take: two buttons that carry picture A or B over to the other tabs.
    """

    def __init__(self, panels: Panels, unforeseen: Callable[[Exception], str]) -> None:
        self._panels, self._unforeseen = panels, unforeseen
        made = _fields()
        self._twin, self.controls = made["twin"], [made[name] for name in _NAMES]
        with gr.Row():
            self._break = gr.Button(f"Find a pair that {panels.models[0].name} fails at", variant="primary", elem_id="break")
            self._random = gr.Button("Random", elem_id="random")
            self._count = gr.Button(f"Draw it {DRAWS} times and count", elem_id="count")
        self._panel = gr.HTML(elem_id="twins", min_height=120)
        with gr.Row():
            self.take = [gr.Button(f"Ask more about picture {name}", elem_id=f"take-{name}") for name in "AB"]

    def listen(self, app: gr.Blocks) -> None:
        """Draws at the beginning, and whenever something is set."""
        every = [self._panel, *self.controls]
        changes = [app.load, *(control.input for control in self.controls)]
        gr.on(changes, self._draw, self.controls, self._panel, show_progress="hidden", trigger_mode="always_last", **QUEUE)
        self._count.click(self._counted, self.controls, self._panel, show_progress="minimal", **QUEUE)
        self._random.click(self._at_random, self._twin, every, show_progress="hidden", **QUEUE)
        self._break.click(self._broken, self._twin, every, show_progress="minimal", **QUEUE)

    def taken(self, which: int, given: tuple[object, ...]) -> tuple[np.ndarray, str] | None:
        """One of the two pictures, and the captions, its own first; nothing where the setting can be no pair, as the panel says."""
        try:
            pair = make_pair(_setting(given))
        except UserError:
            return None
        return pair.pixels(self._panels.size)[which], f"{pair.texts[which]}\n{pair.texts[1 - which]}"

    def _draw(self, *given: object) -> str:
        return told(lambda: self._panels.twins(_setting(given)), self._unforeseen)

    def _counted(self, *given: object, progress: gr.Progress = gr.Progress()) -> str:
        return told(lambda: self._panels.twins(_setting(given), count=True, show=shown(progress)), self._unforeseen)

    def _at_random(self, twin: str) -> list[object]:
        return self._set(random_setting(np.random.default_rng(), twin))

    def _broken(self, twin: str, progress: gr.Progress = gr.Progress()) -> list[object]:
        found: list[Setting] = []

        def find() -> str:
            found.append(self._panels.broken(twin, int(np.random.default_rng().integers(2**31)), shown(progress)))
            return self._panels.twins(found[0])

        html = told(find, self._unforeseen)
        return [html, *(getattr(found[0], name) if found else gr.skip() for name in _NAMES)]

    def _set(self, setting: Setting) -> list[object]:
        html = told(lambda: self._panels.twins(setting), self._unforeseen)
        return [html, *(getattr(setting, name) for name in _NAMES)]


def _setting(given: tuple[object, ...]) -> Setting:
    return replace(Setting(), **dict(zip(_NAMES, given, strict=True)))


def _fields() -> dict[str, Control]:
    start = Setting()

    def choice(name: str, options: Iterable[str | tuple[str, str]], label: str, width: int = 110) -> gr.Dropdown:
        return gr.Dropdown(list(options), value=getattr(start, name), label=label, min_width=width, filterable=False, elem_id=name)

    nouns, relations = sorted(World().nouns), [(words[0], name) for name, words in RELATION_WORDS.items()]
    made: dict[str, Control] = {"twin": gr.Radio(list(TWINS), value=start.twin, label="Of picture A make picture B:", elem_id="twin")}
    with gr.Row():
        made["colour"] = choice("colour", COLOURS, "Colour")
        made["noun"] = choice("noun", nouns, "Thing")
        made["relation"] = choice("relation", relations, "is", 160)
        made["second_colour"] = choice("second_colour", COLOURS, "Second colour")
        made["second_noun"] = choice("second_noun", nouns, "Second thing")
    with gr.Accordion("Patterns and size", open=False), gr.Row():
        made["fill"] = choice("fill", FILLS, "Pattern")
        made["second_fill"] = choice("second_fill", FILLS, "Second pattern")
        made["size"] = choice("size", SIZES, "Size of both")
    made["drawing"] = gr.Slider(
        0, MOST_DRAWS, value=start.drawing, step=1, label="The same facts, drawn another time", elem_id="drawing", buttons=[]
    )
    return made

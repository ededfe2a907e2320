"""The page of the app: its fields and panels in Gradio, and which function answers which of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData

from wholegrain.data.scenes.captions import RELATION_WORDS
from wholegrain.data.scenes.world import COLOURS, FILLS, SIZES, World
from wholegrain.errors import UserError
from wholegrain.evaluation.read_outs.registry import READ_OUTS
from wholegrain.workflows.explore.limits import captions_of
from wholegrain.workflows.explore.panels import OWN, Panels, refusal, told
from wholegrain.workflows.explore.twins import MOST_DRAWS, TWINS, Setting, make_pair, random_setting

CHOICES = 24
"""Pictures of the gallery that can be chosen by a click."""
BY_PICTURE, BY_CAPTION = "the picture", "the caption"
_QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models", "api_visibility": "private"}
"""Of all events: models answer one question at a time, and no other program is served."""


class DroppedPicture(gr.Image):
    """A field for a picture whose file is left unread: Pillow would open any of its formats, and our reader opens few (:mod:`.limits`)."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the uploaded file."""
        return None if payload is None else payload.path


def build(panels: Panels, unforeseen: Callable[[Exception], str]) -> gr.Blocks:
    """The app, ready to be served.

    Args:
        unforeseen: gives a sentence about an error that nobody thought of.
    """
    names = ", ".join(model.name for model in panels.models)
    with gr.Blocks(title=f"Explore {names}", analytics_enabled=False, delete_cache=(60, 600)) as app:
        gr.HTML(_head(names, panels.gallery.place))
        active = gr.State("scores")  # outside of the tabs, whose children are counted
        with gr.Row():
            with gr.Column(scale=1, min_width=280) as question:
                asked = _question(panels)
            with gr.Column(scale=2, min_width=300), gr.Tabs():
                _answers(app, panels, asked, unforeseen, active, question)
    app.queue(max_size=32, default_concurrency_limit=1)
    return app


def _head(names: str, place: str) -> str:
    from html import escape

    return (
        f'<div class="wg"><h1>What do they see?</h1><p class="soft">{escape(names)} · {escape(place)} · '
        "everything runs on this machine, and no picture or text is kept</p></div>"
    )


class _Question:
    """The fields that three of the panels share: a picture, captions, and the caption that is looked at closer."""

    def __init__(self, picture: gr.Image, captions: gr.Textbox, closer: gr.Dropdown, ask: gr.Button) -> None:
        self.picture, self.captions, self.closer, self.ask = picture, captions, closer, ask


def _question(panels: Panels) -> _Question:
    gallery = panels.gallery
    chosen, first = gallery.spread(CHOICES), suggested(panels, 0)
    picture = DroppedPicture(
        gallery.pictures[0].pixels(), label="Picture", sources=["upload", "clipboard"], format="png", height=240, buttons=[],
        elem_id="picture", placeholder="Drop a picture here", alt_text="the picture that is asked about",
    )  # fmt: skip
    thumbs = gr.Gallery(
        [(panels.small(n), gallery.names[n]) for n in chosen], label="or choose one", columns=6, height=150, allow_preview=False,
        object_fit="cover", elem_id="choices", buttons=[], format="png", interactive=False,
    )  # fmt: skip
    captions = gr.Textbox(first, label="Captions, one a line", lines=3, max_lines=8, elem_id="captions")
    ask = gr.Button("Ask", variant="primary", elem_id="ask")
    listed = captions_of(first)
    closer = gr.Dropdown(listed, value=listed[0], label="Look closer at", elem_id="closer", filterable=False)
    filled = gr.State(first)

    def choose(event: gr.SelectData, text: str, before: str) -> tuple[Any, Any, str]:
        place = chosen[int(event.index)]
        new = suggested(panels, place) if not text.strip() or text == before else text
        return gallery.pictures[place].pixels(), new, new if new != text else before

    thumbs.select(choose, [captions, filled], [picture, captions, filled], show_progress="hidden", **_QUEUE)
    return _Question(picture, captions, closer, ask)


def suggested(panels: Panels, place: int) -> str:
    """Captions to begin with: a true one of a picture with a false one made from it, or two that may fit anything."""
    said = panels.gallery.captions[place]
    return "\n".join([said[0], *panels.falsified(said[0])]) if said else "a photo of a person\na photo of a place"


def _answers(
    app: gr.Blocks, panels: Panels, asked: _Question, unforeseen: Callable[[Exception], str], active: gr.State, question: gr.Column
) -> None:
    with gr.Tab("Captions", id="scores") as scores_tab:
        scores = gr.HTML(elem_id="scores")
    with gr.Tab("Why", id="why") as why_tab:
        read_out = gr.Dropdown([OWN, *READ_OUTS], value=OWN, label="Words are read out of the picture by", elem_id="read-out", filterable=False)
        why = gr.HTML(elem_id="why")
    with gr.Tab("Neighbours", id="near") as near_tab:
        by = gr.Radio([BY_PICTURE, BY_CAPTION], value=BY_PICTURE, label="Nearest to", elem_id="by")
        near = gr.HTML(elem_id="near")
    with gr.Tab("Break and repair", id="twins") as twins_tab:
        _twins(app, panels, asked, unforeseen)
    shown = {"scores": scores, "why": why, "near": near}

    def answer(
        tab: str, path: str | None, text: str, closer: str | None, way: str, nearest_to: str, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> dict[Any, Any]:
        if tab not in shown:
            return {}
        try:
            listed = captions_of(text)
        except UserError as reason:
            return {shown[tab]: refusal(str(reason))}
        caption, show = closer if closer in listed else listed[0], _shown(progress)
        ways: dict[str, Callable[[], str]] = {
            "scores": lambda: panels.scores(path, text, caption),
            "why": lambda: panels.why(path, caption, way, show),
            "near": lambda: panels.neighbours(path, caption, nearest_to == BY_CAPTION, show),
        }
        return {shown[tab]: told(ways[tab], unforeseen), asked.closer: gr.Dropdown(listed, value=caption)}

    inputs = [active, asked.picture, asked.captions, asked.closer, read_out, by]
    outputs = [*shown.values(), asked.closer]
    triggers = [app.load, asked.picture.change, asked.ask.click, asked.closer.input, read_out.input, by.input]
    gr.on(triggers, answer, inputs, outputs, show_progress="minimal", trigger_mode="always_last", **_QUEUE)
    for tab, name in ((scores_tab, "scores"), (why_tab, "why"), (near_tab, "near"), (twins_tab, "twins")):
        moved = tab.select(lambda name=name: (name, gr.Column(visible=name != "twins")), None, [active, question], show_progress="hidden", **_QUEUE)
        moved.then(answer, inputs, outputs, show_progress="minimal", **_QUEUE)


def _shown(progress: gr.Progress) -> Callable[[str, int, int], None]:
    def show(what: str, done: int = 0, total: int = 0) -> None:
        progress((done, total) if total else None, desc=what)

    return show


def _twins(app: gr.Blocks, panels: Panels, asked: _Question, unforeseen: Callable[[Exception], str]) -> None:
    """The panel of two pictures that differ in one fact."""
    controls, values = _controls(), [field.name for field in fields(Setting)]
    listed = [controls[name] for name in values]
    with gr.Row():
        break_it = gr.Button(f"Find a pair that {panels.models[0].name} fails at", variant="primary", elem_id="break")
        at_random = gr.Button("Random", elem_id="random")
        again = gr.Button("Draw it 20 times and count", elem_id="count")
    panel = gr.HTML(elem_id="twins")
    with gr.Row():
        takes = [gr.Button(f"Ask about picture {name} in the other tabs", elem_id=f"take-{name}") for name in "AB"]

    def of(*given: Any) -> Setting:
        return Setting(**dict(zip(values, given, strict=True)))

    def draw(*given: Any) -> str:
        return told(lambda: panels.twins(of(*given)), unforeseen)

    def count(*given: Any, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        return told(lambda: panels.twins(of(*given), count=True, show=_shown(progress)), unforeseen)

    def found(setting: Setting) -> dict[Any, Any]:
        html = told(lambda: panels.twins(setting), unforeseen)
        return {panel: html, **{controls[name]: getattr(setting, name) for name in values}}

    def roll(twin: str) -> dict[Any, Any]:
        return found(random_setting(np.random.default_rng(), twin))

    def fail(twin: str, progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        try:
            return found(panels.broken(twin, int(np.random.default_rng().integers(2**31)), _shown(progress)))
        except UserError as reason:
            return {panel: refusal(str(reason))}

    def take(which: int, *given: Any) -> tuple[Any, str]:
        try:
            pair = make_pair(of(*given))
        except UserError:  # the panel says it
            return gr.skip(), gr.skip()
        own, other = pair.texts[which], pair.texts[1 - which]
        return pair.pixels(panels.size)[which], f"{own}\n{other}"

    changes = [app.load, *(getattr(control, "input") for control in listed)]
    gr.on(changes, draw, listed, panel, show_progress="hidden", trigger_mode="always_last", **_QUEUE)
    again.click(count, listed, panel, show_progress="minimal", **_QUEUE)
    at_random.click(roll, controls["twin"], [panel, *listed], show_progress="hidden", **_QUEUE)
    break_it.click(fail, controls["twin"], [panel, *listed], show_progress="minimal", **_QUEUE)
    for which, button in enumerate(takes):
        button.click(lambda *given, which=which: take(which, *given), listed, [asked.picture, asked.captions], show_progress="hidden", **_QUEUE)


def _controls() -> dict[str, Any]:
    """A field for each of a setting's values."""
    start = Setting()

    def choice(name: str, options: Any, label: str) -> gr.Dropdown:
        return gr.Dropdown(sorted(options) if name.endswith("noun") else list(options), value=getattr(start, name), label=label, min_width=110,
                           filterable=False, elem_id=name)  # fmt: skip

    made: dict[str, Any] = {
        "twin": gr.Radio(list(TWINS), value=start.twin, label="Of picture A make picture B:", elem_id="twin"),
    }
    with gr.Row():
        made["colour"] = choice("colour", COLOURS, "Colour")
        made["noun"] = choice("noun", World().nouns, "Thing")
        made["relation"] = choice("relation", [(words[0], name) for name, words in RELATION_WORDS.items()], "is")
        made["second_colour"] = choice("second_colour", COLOURS, "Second colour")
        made["second_noun"] = choice("second_noun", World().nouns, "Second thing")
    with gr.Accordion("Patterns, size, and the drawing", open=False), gr.Row():
        made["fill"] = choice("fill", FILLS, "Pattern")
        made["second_fill"] = choice("second_fill", FILLS, "Second pattern")
        made["size"] = choice("size", SIZES, "Size of both")
    made["drawing"] = gr.Slider(0, MOST_DRAWS, value=start.drawing, step=1, label="The same facts, drawn another time", elem_id="drawing", buttons=[])
    return made

"""The page of the app: its fields and panels in Gradio, and which function answers which of them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr
from gradio.blocks import Block

from wholegrain.errors import UserError
from wholegrain.evaluation.read_outs.registry import READ_OUTS
from wholegrain.workflows.explore.fields import QUEUE, Question, question_fields, shown
from wholegrain.workflows.explore.limits import captions_of
from wholegrain.workflows.explore.panels import OWN, Panels, refusal, told
from wholegrain.workflows.explore.twin_fields import TwinTab

BY_PICTURE, BY_CAPTION = "the picture", "the caption"


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
            with gr.Column(scale=1, min_width=280) as column:
                asked = question_fields(panels)
            with gr.Column(scale=2, min_width=300), gr.Tabs(overflow_behavior="wrap") as tabs:
                answers = _Answers(panels, asked, unforeseen)
                with gr.Tab("Break and repair", id="twins") as twins_tab:
                    twins = TwinTab(panels, unforeseen)
        answers.listen(app, active)
        for tab, name in (*answers.tabs.items(), (twins_tab, "twins")):
            here = tab.select(
                lambda name=name: (name, gr.Column(visible=name != "twins")), None, [active, column], show_progress="hidden", **QUEUE
            )
            here.then(answers.answer, [active, *answers.inputs], answers.outputs, show_progress="minimal", **QUEUE)
        twins.listen(app)

        def take(which: int, given: tuple[object, ...]) -> dict[Block, object]:
            found = twins.taken(which, given)
            if found is None:
                return {asked.captions: gr.skip()}
            moved = {active: "scores", column: gr.Column(visible=True), tabs: gr.Tabs(selected="scores")}
            return {asked.picture: found[0], asked.captions: found[1], asked.filled: found[1], **moved}

        for which, button in enumerate(twins.take):
            taken = button.click(
                lambda *given, which=which: take(which, given), twins.controls, [asked.picture, asked.captions, asked.filled, active, column, tabs],
                show_progress="hidden", **QUEUE,
            )  # fmt: skip
            taken.then(answers.answer, [active, *answers.inputs], answers.outputs, show_progress="minimal", **QUEUE)
    app.queue(max_size=32, default_concurrency_limit=1)
    return app


def _head(names: str, place: str) -> str:
    return (
        f'<div class="wg"><h1>What do they see?</h1><p class="soft">{escape(names)} · {escape(place)} · '
        "everything runs on this machine, and no picture or text is kept</p></div>"
    )


class _Answers:
    """The three tabs that answer one question: a picture and captions."""

    def __init__(self, panels: Panels, asked: Question, unforeseen: Callable[[Exception], str]) -> None:
        self._panels, self._unforeseen = panels, unforeseen
        with gr.Tab("Captions", id="scores") as scores_tab:
            scores = gr.HTML(elem_id="scores", min_height=120)
        with gr.Tab("Why", id="why") as why_tab:
            read_out = gr.Dropdown(
                [OWN, *READ_OUTS], value=OWN, label="Words are read out of the picture by", elem_id="read-out", filterable=False
            )
            why = gr.HTML(elem_id="why", min_height=120)
        with gr.Tab("Neighbours", id="near") as near_tab:
            by = gr.Radio([BY_PICTURE, BY_CAPTION], value=BY_PICTURE, label="Nearest to", elem_id="by")
            near = gr.HTML(elem_id="near", min_height=120)
        self.tabs = {scores_tab: "scores", why_tab: "why", near_tab: "near"}
        self.inputs = [asked.picture, asked.captions, asked.closer, read_out, by]
        self.outputs = [scores, why, near]
        self._html: dict[str, gr.HTML] = {"scores": scores, "why": why, "near": near}
        self._changed = [asked.picture.change, asked.ask.click, asked.closer.input, asked.closer.submit, read_out.input, by.input]

    def listen(self, app: gr.Blocks, active: gr.State) -> None:
        """Answers at the beginning and whenever the question changes."""
        inputs = [active, *self.inputs]
        gr.on([app.load, *self._changed], self.answer, inputs, self.outputs, show_progress="minimal", trigger_mode="always_last", **QUEUE)

    def answer(
        self, tab: str, path: str | None, text: str, closer: float | None, read_out: str, by: str, progress: gr.Progress = gr.Progress()
    ) -> dict[gr.HTML, object]:
        """The panel of the open tab; the others stay as they are until they are opened."""
        if tab not in self._html:
            return {self._html["scores"]: gr.skip()}  # Gradio takes an empty answer for a fault
        panel, show = self._html[tab], shown(progress)
        try:
            listed = captions_of(text)
        except UserError as reason:
            return {panel: refusal(str(reason))}
        caption = listed[int(min(max(closer or 1, 1), len(listed))) - 1]
        ways: dict[str, Callable[[], str]] = {
            "scores": lambda: self._panels.scores(path, listed, caption),
            "why": lambda: self._panels.why(path, caption, read_out, show),
            "near": lambda: self._panels.neighbours(path, caption, by == BY_CAPTION, show),
        }
        return {panel: told(ways[tab], self._unforeseen)}

"""The fields of a question: a picture, captions, and the caption that is looked at closer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData

from wholegrain.errors import UserError
from wholegrain.progress import Show
from wholegrain.workflows.explore.panels import Panels

CHOICES = 24
"""Pictures of the gallery that can be chosen by a click."""


class _Queue(TypedDict):
    concurrency_limit: int
    concurrency_id: str
    api_visibility: Literal["private"]


QUEUE: _Queue = {"concurrency_limit": 1, "concurrency_id": "models", "api_visibility": "private"}
"""Of all events: models answer one question at a time, and no other program is served."""


@dataclass(frozen=True)
class Question:
    """What three of the panels are asked with; ``filled`` are captions that the visitor has not typed, and that another picture replaces."""

    picture: gr.Image
    captions: gr.Textbox
    filled: gr.State
    closer: gr.Number
    ask: gr.Button


def question_fields(panels: Panels) -> Question:
    """Makes the fields, with a first picture of the gallery and captions of it, in the column that is open."""
    gallery = panels.gallery
    chosen = gallery.spread(CHOICES)
    first = panels.suggested(chosen[0])
    picture = gr.Image(
        panels.asked(chosen[0]), label="Picture", sources=["upload", "clipboard"], format="png", height=240, buttons=[],
        elem_id="picture", placeholder="Drop a picture here", alt_text="the picture that is asked about",
    )  # fmt: skip
    picture.preprocess = _left_unread
    gr.HTML('<div class="wg"><p class="soft">or choose one of these:</p></div>')
    thumbs = gr.Gallery(
        [(panels.small(n), gallery.names[n]) for n in chosen], columns=6, height=130, allow_preview=False, object_fit="cover",
        elem_id="choices", buttons=[], format="png", interactive=False, show_label=False,
    )  # fmt: skip
    captions = gr.Textbox(first, label="Captions, one a line", lines=3, max_lines=8, elem_id="captions")
    ask = gr.Button("Ask", variant="primary", elem_id="ask")
    closer = gr.Number(1, label="Look closer at caption number", precision=0, elem_id="closer")  # a list of captions lags behind what is typed
    filled = gr.State(first)

    def choose(event: gr.SelectData, text: str, before: str) -> tuple[np.ndarray, str, str]:
        """A picture, and captions of it unless the visitor has typed some."""
        place = chosen[int(event.index)]
        try:
            pixels_HWC = panels.asked(place)
        except UserError as reason:
            raise gr.Error(str(reason), print_exception=False) from None
        new = panels.suggested(place) if text.strip() in ("", before.strip()) else text
        return pixels_HWC, new, before if new == text else new

    thumbs.select(choose, [captions, filled], [picture, captions, filled], show_progress="hidden", **QUEUE)
    return Question(picture, captions, filled, closer, ask)


def _left_unread(payload: ImageData | None) -> str | None:
    """The path of a dropped file. Gradio would have Pillow open whatever it is; our reader opens few formats (:mod:`.limits`).

    No output may give the field other properties than its value: Gradio would make it anew, with a way of its own to read.
    """
    return None if payload is None else payload.path


def shown(progress: gr.Progress) -> Show:
    """Gradio's bar as a :data:`~wholegrain.progress.Show`."""

    def show(what: str, done: int = 0, total: int = 0) -> None:
        progress((done, total) if total else None, desc=what)

    return show

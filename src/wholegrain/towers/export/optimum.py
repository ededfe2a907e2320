"""To ONNX as optimum and transformers.js read it: the folder of transformers without its weights, and three graphs of its class in ``onnx/``.

* ``model.onnx``: ``input_ids`` and ``attention_mask`` int64 ``[N, L]``, ``pixel_values`` float ``[B, 3, S, S]`` (resized and normalised as
  ``preprocessor_config.json`` says) to ``logits_per_image`` ``[B, N]``, ``logits_per_text`` ``[N, B]``, ``text_embeds`` ``[N, D]`` and
  ``image_embeds`` ``[B, D]``; these are unit vectors.
* ``text_model.onnx``: ``input_ids`` and ``attention_mask`` to ``text_embeds`` ``[N, D]``, and ``vision_model.onnx``: ``pixel_values`` to
  ``image_embeds`` ``[B, D]``, not normalised.

A SigLIP has no ``attention_mask``, and the graphs of its sides give ``last_hidden_state`` and ``pooler_output``. Names and axes are those of
optimum's exporter (2.1, ``CLIPOnnxConfig``, ``SiglipOnnxConfig``), and for the sides those of its ``split`` of MetaCLIP 2 and of the
conversion script of transformers.js.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from wholegrain.towers.export.comparison import TEXTS, Sample, distance
from wholegrain.towers.export.onnx import export_graph, require_onnx, run_graph
from wholegrain.towers.export.transformers import their_rows, transformers_model, write_processing
from wholegrain.towers.model import Model

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = "onnx"
SCORES: tuple[str, ...] = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
"""Outputs of ``model.onnx``."""
OF_A_SIDE: dict[str, dict[str, tuple[str, ...]]] = {
    "clip": {"text_model": ("text_embeds",), "vision_model": ("image_embeds",)},
    "siglip": dict.fromkeys(("text_model", "vision_model"), ("last_hidden_state", "pooler_output")),
}
"""Kind of model -> graph of a side -> its outputs; the last one is the vector."""


class WholeGraph(nn.Module):
    """A CLIP or SigLIP of transformers to :data:`SCORES`, and to the outputs :data:`OF_A_SIDE` of texts, then of pictures."""

    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made: Any = made

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """See the class."""
        made, masked = self.made, {} if attention_mask is None else {"attention_mask": attention_mask}
        read, seen = made.text_model(input_ids=input_ids, **masked), made.vision_model(pixel_values=pixel_values)
        text_ND, image_BD, bias = read.pooler_output, seen.pooler_output, 0.0
        if made.config.model_type == "clip":
            text_ND, image_BD = made.text_projection(text_ND), made.visual_projection(image_BD)
            sides = (text_ND, image_BD)
        else:
            sides, bias = (read.last_hidden_state, text_ND, seen.last_hidden_state, image_BD), made.logit_bias
        unit_ND, unit_BD = text_ND / text_ND.norm(dim=-1, keepdim=True), image_BD / image_BD.norm(dim=-1, keepdim=True)
        logits_NB = unit_ND @ unit_BD.T * made.logit_scale.exp() + bias
        return (logits_NB.T, logits_NB, unit_ND, unit_BD, *sides)


def write_optimum(model: Model, folder: Path) -> None:
    """Writes the folder. The whole graph is made once, and the others are cut out of it, which takes half the time of three.

    Raises:
        UserError: onnx or transformers is missing, or a part that transformers' classes do not have, by name.
    """
    require_onnx()
    made = transformers_model(model)
    made.config.architectures = [type(made).__name__]  # as save_pretrained of a model writes it
    made.config.save_pretrained(folder)
    write_processing(model, folder)
    rows, pixels = _inputs(model, folder)
    given = {"input_ids": rows["input_ids"], "pixel_values": pixels, **rows}
    texts = {0: torch.export.Dim("text_batch_size"), 1: torch.export.Dim("sequence_length", max=model.text_tower.context_length)}
    images = {0: torch.export.Dim("image_batch_size")}
    axes = tuple(images if name == "pixel_values" else texts for name in given)
    sides = OF_A_SIDE[made.config.model_type]
    names = [*SCORES, *(f"{side}.{name}" for side, outputs in sides.items() for name in outputs)]
    (folder / FOLDER).mkdir()
    path = folder / FOLDER / "model.onnx"
    export_graph(WholeGraph(made).eval(), tuple(given.values()), list(given), names, path, axes, "model")
    _cut_up(path, sides, list(rows))


@torch.no_grad()
def optimum_distances(model: Model, folder: Path) -> dict[str, float]:
    """How far apart the model and the graphs, run by onnxruntime, are; at other batch sizes and lengths than they were made with."""
    runtime, found = require_onnx(), {}
    for images, texts in ((2, 4), (5, 1)):
        rows, pixels = _inputs(model, folder, images, texts)
        inputs = {name: value.numpy() for name, value in {**rows, "pixel_values": pixels}.items()}
        out = {side: run_graph(runtime, folder / FOLDER / f"{side}.onnx", inputs) for side in ("model", "text_model", "vision_model")}
        for name, far in _compared(model, out, images, texts).items():
            found[name] = max(found.get(name, 0.0), far)
    return found


def _inputs(model: Model, folder: Path, images: int = 3, texts: int = len(TEXTS)) -> tuple[Mapping[str, Tensor], Tensor]:
    """Rows of the folder's tokeniser ``[N, L]`` and pixels ``[B, 3, S, S]``."""
    padding = "longest" if model.text_tower.true_length else "max_length"
    rows = their_rows(model, folder, TEXTS[:texts], padding=padding)
    return rows, model.preprocess.normalise(Sample.of(model, images).pixels_BCHW)


def _compared(model: Model, out: Mapping[str, Mapping[str, np.ndarray]], images: int, texts: int) -> dict[str, float]:
    """What the graphs gave beside what the model gives for the same pictures and texts."""
    sample = Sample.of(model, images)
    image_BD = model.encode_images(sample.pixels_BCHW).pooled_BD
    text_ND = model.encode_texts(sample.tokens.tokens_NL[:texts], sample.tokens.length_N[:texts]).pooled_ND
    seen_BD, read_ND = normalize(image_BD, dim=-1), normalize(text_ND, dim=-1)
    logits_BN = seen_BD @ read_ND.T * model.log_scale.exp() + (0.0 if model.bias is None else model.bias)
    wanted = dict(zip(SCORES, (logits_BN, logits_BN.T, read_ND, seen_BD), strict=True))
    given = {name: out["model"][name] for name in SCORES}
    for side, own in (("text_model", text_ND), ("vision_model", image_BD)):
        wanted[side] = own
        given[side] = list(out[side].values())[-1]
    return {name.replace("_", " "): distance(torch.from_numpy(given[name]), value) for name, value in wanted.items()}


def _cut_up(path: Path, sides: Mapping[str, Sequence[str]], texts: Sequence[str]) -> None:
    """Graphs of both, of texts and of pictures out of one that gives everything; weights in a file beside it stay there for all three."""
    import onnx

    whole = onnx.load(path, load_external_data=False)
    inputs = {"text_model": texts, "vision_model": ["pixel_values"]}
    for side, outputs in sides.items():
        part = _cut(whole, inputs[side], {f"{side}.{name}": name for name in outputs})
        onnx.save(part, path.with_name(f"{side}.onnx"))
    onnx.save(_cut(whole, [i.name for i in whole.graph.input], {name: name for name in SCORES}), path)


def _cut(whole: ModelProto, inputs: Sequence[str], outputs: Mapping[str, str]) -> ModelProto:
    """The part between some inputs and outputs, which get other names."""
    from onnx.utils import Extractor

    part = Extractor(whole).extract_model(list(inputs), list(outputs))
    for node in part.graph.node:
        for names in (node.input, node.output):
            names[:] = [outputs.get(name, name) for name in names]
    for value in (*part.graph.output, *part.graph.value_info):
        value.name = outputs.get(value.name, value.name)
    return part

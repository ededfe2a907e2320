"""int8 graphs beside the float32 ones: ``image.int8.onnx`` and ``text.int8.onnx``, by onnxruntime's dynamic quantisation.

Weights of matrix products and embeddings are kept as int8, a scale for each output, and what is multiplied with them is rounded when it comes (its range is
that of each call, so a vector depends a little on what else is in the call); all else stays float32, convolutions, too: rounded, those of a MobileNetV2
left vectors at a cosine of 0.47, and were slower. Weights use 7 bits, for older processors add up pairs of 8-bit products with saturation. Nothing has
to be calibrated. How much it loses depends on the model, so it is measured: :class:`OnnxModel` runs graphs as a model.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.files import read_json
from wholegrain.structure import JsonTable
from wholegrain.text.tokenizer import load_tokenizer
from wholegrain.towers.export.comparison import Sample
from wholegrain.towers.export.onnx import SETTINGS_FILE, require_onnx
from wholegrain.towers.model import Model

ROUNDED = ["MatMul", "Gemm", "Gather"]
INT8 = ".int8"
"""Stands behind ``image`` and ``text`` in the names of the files."""


class OnnxModel:
    """Exported graphs as a model for evaluation, run by onnxruntime on the CPU.

    Args:
        folder: as ``wholegrain export --to onnx`` writes it, of a model without a joint score.
        kind: ``""`` for the float32 graphs, :data:`INT8` for the others.

    Raises:
        UserError: onnxruntime is missing, or the folder's settings are damaged.
    """

    def __init__(self, folder: Path, kind: str = "") -> None:
        settings = read_json(folder / SETTINGS_FILE, JsonTable, "export the model again")
        self.preprocess = Preprocess.from_json(settings["preprocess"])
        self.tokenizer = load_tokenizer(folder)
        start, where = require_onnx().InferenceSession, {"providers": ["CPUExecutionProvider"]}
        self._image, self._text = (start(str(folder / f"{side}{kind}.onnx"), **where) for side in ("image", "text"))
        self._branches = "branches" in {output.name for output in self._image.get_outputs()}

    def encode_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = frozenset()) -> ImageFeatures:
        """uint8 in; pooled vectors, and branches of a model that has them."""
        names = ["image", "branches"] if self._branches else ["image"]
        pooled, *branches = map(torch.from_numpy, self._image.run(names, {"pixels": pixels_BCHW.cpu().numpy()}))
        return ImageFeatures(pooled, branches[0] if branches else None)

    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = frozenset()) -> TextFeatures:
        """Pooled vectors."""
        (found,) = self._text.run(["text"], {"tokens": tokens_NL.cpu().numpy(), "length": length_N.cpu().numpy()})
        return TextFeatures(torch.from_numpy(found))


def check_int8(model: Model, to: str) -> None:
    """Refuses what cannot be measured, before anything is written.

    Raises:
        UserError: another format, or a model whose pairs are scored jointly.
    """
    if to != "onnx":
        raise UserError(f"--int8 makes graphs of ONNX, and --to is {to}; leave it out or give --to onnx.")
    if model.score is not None:
        raise UserError(f"--int8 is for models that score pairs by the cosine, and this one has the joint score of its {model.head.kind} head; leave it out.")


def write_int8(model: Model, folder: Path) -> tuple[float, float]:
    """Writes the int8 graphs of a folder that has the others.

    Returns:
        Mean cosine of the vectors with the model's own: of pictures of noise, of a few sentences.
    """
    require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises what is done already: torch's exporter writes shapes
    try:
        for side in ("image", "text"):
            whole, small = (folder / f"{side}{kind}.onnx" for kind in ("", INT8))
            quantize_dynamic(whole, small, ROUNDED, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(before)
    sample, graphs = Sample.of(model, 16), OnnxModel(folder, INT8)
    tokens = sample.tokens
    with torch.no_grad():
        image = cosine_similarity(graphs.encode_images(sample.pixels_BCHW).pooled_BD, model.encode_images(sample.pixels_BCHW).pooled_BD)
        ours = model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND
        text = cosine_similarity(graphs.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND, ours)
    return float(image.mean()), float(text.mean())

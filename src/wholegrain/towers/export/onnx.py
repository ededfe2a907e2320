"""To ONNX: ``image.onnx``, ``text.onnx`` and, for heads that score pairs jointly, ``score.onnx``; checked with onnxruntime at once.

* ``image.onnx``: ``pixels`` uint8 ``[B, 3, S, S]`` (resized as ``wholegrain_onnx.json`` says; normalising is inside) to ``image``
  ``[B, D]``, ``branches`` ``[B, H, D]`` of a model that has them, and what ``score.onnx`` needs.
* ``text.onnx``: ``tokens`` int64 ``[N, L]`` and ``length`` int64 ``[N]`` to ``text`` ``[N, D]``, and what ``score.onnx`` needs. L is any length
  up to the context; what stands beyond a text's length has no influence.
* ``score.onnx``: those outputs to ``score`` ``[B, N]``. Without it pairs are scored by cosine * scale + bias, both in the JSON.

Vectors are not normalised. ``image`` of a model with branches is the mean of its unit branches.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import Features, ImageFeatures, TextFeatures
from wholegrain.towers.base import NOTHING, RawText, real_tokens
from wholegrain.towers.export.comparison import Sample, distance
from wholegrain.towers.export.dense_scores import dense_score
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import OpenClipTextTower, text_net
from wholegrain.towers.sources.small import RecurrentTextTower
from wholegrain.towers.tensor_files import uncompiled

SETTINGS_FILE = "wholegrain_onnx.json"
NAMES = {"pooled_BD": "image", "branches_BHD": "branches", "patches_BPD": "patches", "keys_BGSE": "keys", "values_BGSE": "values"}
NAMES |= {"pooled_ND": "text", "tokens_NLD": "token_vectors", "mask_NL": "mask", "query_NGE": "query"}


class ImageGraph(nn.Module):
    """uint8 pixels to the tensors of :class:`ImageFeatures`, in the order of their fields."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Model, needs: frozenset[str]) -> None:
        super().__init__()
        self.model, self.needs = model, needs
        mean, std = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (model.preprocess.mean, model.preprocess.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        seen = pixels.float() * self.scale + self.shift
        model = self.model
        raw = model.image_tower(seen, model.head.raw_needs(self.needs))
        return tuple(model.project_images(raw, self.needs).tensors().values())


class TextGraph(nn.Module):
    """Token rows to the tensors of :class:`TextFeatures`, in the order of their fields."""

    def __init__(self, model: Model, needs: frozenset[str]) -> None:
        super().__init__()
        self.model, self.needs = model, needs
        tower = model.text_tower
        self.tower = PaddedText(tower) if isinstance(tower, OpenClipTextTower) else tower

    def forward(self, tokens: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        head = self.model.head
        raw = self.tower(tokens, length, head.raw_needs(self.needs))
        return tuple(head.project_text(raw, self.needs).tensors().values())


class PaddedText(nn.Module):
    """An open_clip text tower on padded rows, as a graph needs it: with open_clip's own blocks, and no list of real tokens whose length
    depends on the texts."""

    def __init__(self, tower: OpenClipTextTower) -> None:
        super().__init__()
        net = text_net(tower.config()["model"])
        assert isinstance(net, TextTransformer)
        net.text_projection = None
        net.load_state_dict(uncompiled(tower.net.state_dict()))
        self.net = net
        self.true_length, self.context, self.pad_id = tower.true_length, tower.context_length, tower.pad_id

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """As :class:`OpenClipTextTower`."""
        net, length = self.net, tokens_NL.shape[1]
        mask_NL = real_tokens(length_N, length)
        tokens_NL = torch.where(mask_NL, tokens_NL, self.pad_id)
        if not self.true_length:
            filled = torch.full((tokens_NL.shape[0], self.context), self.pad_id, dtype=tokens_NL.dtype)
            tokens_NL = torch.cat([tokens_NL, filled[:, length:]], 1)
        L = tokens_NL.shape[1]
        x = net.token_embedding(tokens_NL) + net.positional_embedding[:L]
        x = net.transformer(x, attn_mask=None if net.attn_mask is None else net.attn_mask[:L, :L])
        x = net.ln_final(x)
        pooled = text_global_pool(x, tokens_NL, pool_type=net.pool_type, eos_token_id=net.eos_id)
        return RawText(pooled, x[:, :length] if "tokens" in needs else None, mask_NL)


class ScoreGraph(nn.Module):
    """Tensors of both sides to joint scores ``[B, N]``."""

    def __init__(self, model: Model, image_names: Sequence[str], text_names: Sequence[str]) -> None:
        super().__init__()
        self.head, self.image_names, self.text_names = model.head, tuple(image_names), tuple(text_names)

    def forward(self, *parts: Tensor) -> Tensor:
        """See the class."""
        split = len(self.image_names)
        image, text = _named(ImageFeatures, self.image_names, parts[:split]), _named(TextFeatures, self.text_names, parts[split:])
        return dense_score(self.head, image, text)


def _named(kind: type[Features], names: Sequence[str], parts: Sequence[Tensor]) -> Features:
    return kind(**dict(zip(names, parts, strict=True)))


def write_onnx(model: Model, folder: Path) -> None:
    """Writes the graphs and the settings that go with them.

    Raises:
        UserError: onnx is missing, or a part that torch cannot put into a graph, by name.
    """
    if "phrases" in model.score_needs:
        raise UserError(
            f"The joint score of the {model.head.kind} head looks for a caption's noun phrases, and finding those is no graph of ONNX; "
            "export --to wholegrain, or --to open_clip or transformers with --approximate, which leaves the whole alone."
        )
    require_onnx()
    if isinstance(model.text_tower, RecurrentTextTower):
        raise UserError(
            "ONNX has no place for the preset's recurrent reader (packed rows); train with reader=transformer, or export to wholegrain"
        )
    needs = model.score_needs
    sample = Sample.of(model)
    rows, length = sample.tokens.tokens_NL, sample.tokens.length_N
    images = ImageGraph(model, needs).eval()
    texts = TextGraph(model, needs).eval()
    with torch.no_grad():
        image = dict(zip(model.encode_images(sample.pixels_BCHW, needs).tensors(), images(sample.pixels_BCHW), strict=True))
        text = dict(zip(model.encode_texts(rows, length, needs).tensors(), texts(rows, length), strict=True))
    batch, count, long = (torch.export.Dim.DYNAMIC,) * 3
    export_graph(images, (sample.pixels_BCHW,), ["pixels"], image, folder / "image.onnx", ({0: batch},), "image tower")
    export_graph(
        texts, (rows, length), ["tokens", "length"], text, folder / "text.onnx", ({0: count, 1: long}, {0: count}), "text tower"
    )
    if model.score is not None:
        image.pop("branches_BHD", None)
        parts = (*image.values(), *text.values())
        names = [NAMES[name] for name in (*image, *text)]
        axes = tuple({0: batch} for _ in image) + tuple({0: count} | ({1: long} if name in ("tokens_NLD", "mask_NL") else {}) for name in text)
        graph = ScoreGraph(model, list(image), list(text)).eval()
        export_graph(
            graph, parts, names, {"score": None}, folder / "score.onnx", (axes,), f"joint score of the {model.head.kind} head"
        )
    settings = {
        "preprocess": model.preprocess.to_json(),
        "context_length": model.text_tower.context_length,
        "pad_id": model.tokenizer.pad_id,
        "scale": model.scale.item(),
        "bias": None if model.bias is None else model.bias.item(),
        "score": "score.onnx" if model.score is not None else "cosine(image, text) * scale + bias",
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    model.tokenizer.save(folder)


@torch.no_grad()
def onnx_distances(model: Model, folder: Path) -> dict[str, float]:
    """How far apart the model and the graphs, run by onnxruntime, are; at other batch sizes and lengths than they were made with."""
    runtime = require_onnx()
    found: dict[str, float] = {}
    for images, texts in ((2, 4), (5, 1)):
        sample = Sample.of(model, images)
        tokens, length = sample.tokens.tokens_NL[:texts], sample.tokens.length_N[:texts]
        tokens = tokens[:, : int(length.max())]
        image = model.encode_images(sample.pixels_BCHW, model.score_needs).tensors()
        text = model.encode_texts(tokens, length, model.score_needs).tensors()
        inputs = {"pixels": sample.pixels_BCHW.numpy(), "tokens": tokens.numpy(), "length": length.numpy()}
        out = run_graph(runtime, folder / "image.onnx", inputs) | run_graph(runtime, folder / "text.onnx", inputs)
        mask = text.get("mask_NL")
        for name, wanted in (image | text).items():
            got = torch.from_numpy(out[NAMES[name]])
            if name == "tokens_NLD" and mask is not None:
                got, wanted = got[mask], wanted[mask]
            far = distance(got.float(), wanted.float())
            found[NAMES[name]] = max(found.get(NAMES[name], 0.0), far)
        if model.score is not None:
            wanted = model.score(
                model.encode_images(sample.pixels_BCHW, model.score_needs), model.encode_texts(tokens, length, model.score_needs)
            )
            got = torch.from_numpy(run_graph(runtime, folder / "score.onnx", out)["score"])
            found["score"] = max(found.get("score", 0.0), distance(got, wanted))
    return found


def run_graph(runtime: ModuleType, path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A graph's outputs, by name; of ``inputs`` it gets those that it has."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {i.name: inputs[i.name] for i in session.get_inputs()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, wanted), strict=True))


def export_graph(
    graph: nn.Module, parts: tuple[Tensor, ...], names: list[str], out: Iterable[str], path: Path, axes: tuple[object, ...], what: str
) -> None:
    """Writes one graph; from about 1.9 GB on its weights lie in a file beside it.

    Args:
        graph: its ``forward`` takes ``parts`` and gives a tensor or a tuple of them.
        parts, names: example inputs, and what they are called.
        out: what the outputs are called, or the fields of our features (:data:`NAMES`).
        path: the file.
        axes: ``dynamic_shapes`` of ``torch.onnx.export``.
        what: for the sentence: what it is a graph of.

    Raises:
        UserError: torch cannot put it into a graph.
    """
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph,
                parts,
                str(path),
                input_names=names,
                output_names=[NAMES.get(name, name) for name in out],
                dynamic_shapes=axes,
                dynamo=True,
                external_data=sum(p.numel() * p.element_size() for p in graph.parameters()) > 1_900_000_000,  # one file holds 2 GB
                verbose=False,
            )
        _leave_no_traces(path)
    except Exception as error:  # torch's exporter raises whatever its parts raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise UserError(f"ONNX has no place for this {what} ({first[:200]}); export to wholegrain") from error


def _leave_no_traces(path: Path) -> None:
    """torch notes at every node where in its source it was made, with the paths of this machine; that stays behind."""
    import onnx

    whole = onnx.load(path, load_external_data=False)
    for node in chain(whole.graph.node, *(function.node for function in whole.functions)):
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(whole, path)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operation for a whole layer, which ONNX does not have
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def require_onnx() -> ModuleType:
    """onnxruntime; refuses in one sentence where it, onnx or onnxscript is missing."""
    try:
        _, runtime, _ = map(import_module, ("onnx", "onnxruntime", "onnxscript"))  # the last one: torch's exporter asks for it
    except ImportError as error:
        raise UserError(f'exporting to ONNX needs {error.name}; install it with: pip install "wholegrain[onnx]"') from error
    return runtime

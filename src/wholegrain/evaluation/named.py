"""Functions of the user's own, named ``file.py:function`` or ``module:function``, and foreign models made by them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import Box, EvaluatedModel
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.suggest import closest
from wholegrain.text.tokenizer import Tokens


def is_function(name: str) -> bool:
    """Whether a name reads as ``file.py:function`` or ``module:function``.

    Example:
        >>> is_function("mine.py:load"), is_function("os.path:join"), is_function("ViT-B-32:openai")
        (True, True, False)
    """
    where, _, what = name.rpartition(":")
    if not where or not what.isidentifier():
        return False
    if where.endswith(".py"):
        return True
    if not all(part.isidentifier() for part in where.split(".")):
        return False
    try:
        return importlib.util.find_spec(where) is not None
    except (ImportError, ValueError):
        return False


def load_function(name: str) -> Callable[..., Any]:
    """The function.

    Raises:
        UserError: when the file, the module or the function is not there, or importing it fails.
    """
    where, _, what = name.rpartition(":")
    try:
        if where.endswith(".py"):
            path = Path(where)
            if not path.is_file():
                raise UserError(f"{path} is not there; give a Python file and a function as file.py:function.")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(path.parent.resolve()))  # its neighbours may be imported by it
            try:
                spec.loader.exec_module(module)
            finally:
                sys.path.pop(0)
        else:
            module = importlib.import_module(where)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} cannot be imported ({type(error).__name__}: {error}); mend it.") from error
    found = getattr(module, what, None)
    if not callable(found):
        raise UserError(f"{where} has no function {what!r}; {closest(what, [n for n in vars(module) if n[0] != '_'])}")
    return found


def load_any(name: str, device: torch.device | None = None) -> EvaluatedModel:
    """A model by everything that :func:`wholegrain.towers.load_model` takes, or by the name of a function (:func:`load_foreign`); moved to
    the device, if one is given and it can be moved.

    ``,grain=1`` (or ``,grain=1:0.05``, ``,grain=1:0.05:en_core_web_sm``) behind it scores it by whole and grain
    (:class:`wholegrain.evaluation.scores.whole_and_grain.GrainOptions`), ``,branch_inference=max`` by the best of its branches
    (:mod:`wholegrain.evaluation.scores.branch_inference`).
    """
    name, grain = split_grain(name)
    name, inference = split_inference(name)
    model = load_foreign(name) if is_function(name) else _load_model(name)
    if device is not None:
        model = getattr(model, "to", lambda _: model)(device)
    if inference:
        from wholegrain.evaluation.scores.branch_inference import BranchInference

        model = BranchInference(model, inference)
    if not grain:
        return model
    from wholegrain.evaluation.scores.whole_and_grain import GrainOptions

    return GrainOptions.parse(grain).of(model)


def _load_model(name: str) -> EvaluatedModel:
    from wholegrain.towers import load_model  # brings open_clip and timm

    return load_model(name)


def split_grain(name: str) -> tuple[str, str]:
    """A model's name without ``,grain=…``, and what stands there; empty if nothing.

    Example:
        >>> split_grain("runs/latest,grain=1:0.05"), split_grain("runs/latest")
        (('runs/latest', '1:0.05'), ('runs/latest', ''))
    """
    name, _, grain = name.partition(",grain=")
    return name, grain


def with_grain(name: str, grain: str) -> str:
    """A model's name with a grain, if one is given, in the place of its own.

    Example:
        >>> with_grain("runs/latest,grain=2", "1"), with_grain("runs/latest,grain=2", "")
        ('runs/latest,grain=1', 'runs/latest,grain=2')
    """
    return f"{split_grain(name)[0]},grain={grain}" if grain else name


def split_inference(name: str) -> tuple[str, str]:
    """A model's name without ``,branch_inference=…``, and what stands there; empty if nothing.

    Example:
        >>> split_inference("runs/latest,branch_inference=max")
        ('runs/latest', 'max')
    """
    name, _, inference = name.partition(",branch_inference=")
    return name, inference


def load_foreign(name: str) -> EvaluatedModel:
    """The model that ``name()`` returns, as evaluation needs it.

    The function returns either a model of this library's form (``preprocess.image``, ``tokenizer.encode``, ``encode_images``,
    ``encode_texts``), or an object with these three:

    * ``preprocess(picture)``: a Pillow picture to a tensor, of one shape for all pictures;
    * ``encode_images(pixels)``: a batch of such tensors to vectors ``[B, D]``;
    * ``encode_texts(texts)``: a list of strings to vectors ``[N, D]``.

    ``device``, ``state_dict`` and ``content_hash`` are used if it has them; without the last two nothing is kept in a cache that another
    run could find.

    Raises:
        UserError: when the object lacks one of these.
    """
    model = load_function(name)()
    if all(hasattr(model, part) for part in ("encode_images", "encode_texts", "tokenizer")) and hasattr(
        getattr(model, "preprocess", None), "image"
    ):
        return model
    missing = [part for part in ("preprocess", "encode_images", "encode_texts") if not callable(getattr(model, part, None))]
    if missing:
        raise UserError(
            f"{name} returned a {type(model).__name__} without {', '.join(missing)}; give it preprocess(picture), encode_images(pixels) "
            "and encode_texts(texts)."
        )
    return Foreign(model, name)


class Foreign:
    """A foreign model in this library's form. Texts travel as code points, so the model's own tokeniser sees what was written."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.preprocess, self.tokenizer, self.training = _Preprocess(model.preprocess), _Letters(), False
        own = getattr(model, "content_hash", None)
        if own is not None:
            self.content_hash = own() if callable(own) else own
        elif not hasattr(model, "state_dict"):
            self.content_hash = uuid.uuid4().hex  # nothing tells this model from another one

    def state_dict(self) -> dict[str, Tensor]:
        """The foreign model's."""
        return self.model.state_dict()

    def parameters(self) -> Iterator[Tensor]:
        """The foreign model's, or none."""
        return self.model.parameters() if callable(getattr(self.model, "parameters", None)) else iter(())

    def to(self, device: torch.device | str) -> Foreign:
        """Moves the foreign model, if it can be moved."""
        if callable(getattr(self.model, "to", None)):
            self.model.to(device)
        if callable(getattr(self.model, "eval", None)):
            self.model.eval()
        return self

    def encode_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = frozenset()) -> ImageFeatures:
        """What the foreign model sees."""
        return ImageFeatures(_vectors(self.model.encode_images(pixels_BCHW), len(pixels_BCHW), f"{self.name}: encode_images"))

    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = frozenset()) -> TextFeatures:
        """What the foreign model reads."""
        texts = ["".join(map(chr, row[:n])) for row, n in zip(tokens_NL.tolist(), length_N.tolist(), strict=True)]
        return TextFeatures(_vectors(self.model.encode_texts(texts), len(texts), f"{self.name}: encode_texts"))


def _vectors(found: object, count: int, who: str) -> Tensor:
    found = torch.as_tensor(found)
    if found.ndim != 2 or len(found) != count:
        raise UserError(f"{who} gave a tensor of shape {tuple(found.shape)} for {count} items; [{count}, width] is expected.")
    return found


class _Preprocess:
    def __init__(self, own: Callable[[Image.Image], Tensor]) -> None:
        self._own = own

    def image(self, pixels_HWC: np.ndarray, box: Box | None = None) -> Tensor:
        return torch.as_tensor(self._own(Image.fromarray(pixels_HWC)))


class _Letters:
    """A token is a code point; the foreign model cuts texts itself, and does not say so."""

    def encode(self, texts: Sequence[str]) -> Tokens:
        length_N = torch.tensor([len(text) for text in texts], dtype=torch.int64)
        tokens_NL = torch.zeros(len(texts), int(length_N.max()) if len(texts) else 0, dtype=torch.int64)
        for row, text in zip(tokens_NL, texts, strict=True):
            row[: len(text)] = torch.tensor([ord(letter) for letter in text], dtype=torch.int64)
        return Tokens(tokens_NL, length_N, torch.zeros(len(texts), dtype=torch.bool))

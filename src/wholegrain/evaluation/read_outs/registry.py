"""All read-outs by name, and those that a model is read out by when nobody names any.

* ``pooled``, ``token``, ``token_cosine``, ``h_v``: :mod:`wholegrain.evaluation.read_outs.vectors`.
* ``attention``: :mod:`wholegrain.evaluation.read_outs.attention`.
* ``gradient``: :mod:`wholegrain.evaluation.read_outs.legrad`.

Which one is used decides what is seen, more than most methods do: a method that trains words against patches is lost on a read-out that
asks with the pooled vector, and the other way round. So a figure has its read-out in its name, and models are compared in
``pooled`` *and* each in what it was trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import evaluating
from wholegrain.evaluation.read_outs.attention import attention_read_out
from wholegrain.evaluation.read_outs.contract import AnyReadOut
from wholegrain.evaluation.read_outs.legrad import GradientReadOut
from wholegrain.evaluation.read_outs.vectors import HeadLayerReadOut, PooledReadOut, TokenCosineReadOut, TokenReadOut, patches
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.suggest import closest

READ_OUTS: dict[str, Callable[[EvaluatedModel], AnyReadOut]] = {
    "pooled": PooledReadOut,
    "token": TokenReadOut,
    "token_cosine": TokenCosineReadOut,
    "h_v": HeadLayerReadOut,
    "attention": attention_read_out,
    "gradient": GradientReadOut,
}
"""Name -> what makes it for a model, or raises :class:`NotSupportedError`."""
COMMON = "pooled"
"""The one that is always there, whose figures have no name before them."""


def trained_read_out(model: object) -> str:
    """The name of the read-out that the model was trained for, as it states (``model.read_out``); the common one, where it states none."""
    return getattr(model, "read_out", COMMON)


def default_read_outs(model: EvaluatedModel, more: Sequence[str] = ()) -> list[AnyReadOut]:
    """The common read-out, the one that the model was trained for, and ``more``: those of them that it can be read out by."""
    found = []
    for name in dict.fromkeys((COMMON, trained_read_out(model), *more)):
        try:
            found.append(READ_OUTS[name](model))
        except NotSupportedError:
            if name == COMMON:
                raise
    return found


def read_outs_named(model: EvaluatedModel, names: Sequence[str]) -> list[AnyReadOut]:
    """Those of these names, in their order.

    Raises:
        UserError: an unknown name, or none.
        NotSupportedError: the model cannot be read out by one of them.
    """
    if not names:
        raise UserError(f"No read-out is named; choose some of {', '.join(READ_OUTS)}.")
    return [READ_OUTS[name](model) for name in dict.fromkeys(check_names(names))]


def check_names(names: Sequence[str]) -> Sequence[str]:
    """The names, if there are such read-outs.

    Raises:
        UserError: the first that is none.
    """
    unknown = next((name for name in names if name not in READ_OUTS), None)
    if unknown is not None:
        raise UserError(f"There is no read-out {unknown!r}; {closest(unknown, list(READ_OUTS))}")
    return names


def looks(chosen: Sequence[AnyReadOut], pixels_BCHW: Tensor) -> tuple[list[object], tuple[int, int]]:
    """What each read-out (of one model) looks at in a batch of pictures, by one pass of the tower for all of them, and the grid of patches.

    Raises:
        NotSupportedError: the model gives no patches.
    """
    model, needs = chosen[0].model, frozenset[str]().union(*(read_out.needs for read_out in chosen))
    with ExitStack() as stack:
        recorded = [stack.enter_context(read_out.recording()) for read_out in chosen]
        try:
            with evaluating(model):
                found = model.encode_images(pixels_BCHW, needs)
        except UserError as error:  # a tower that pools before its last layer
            raise NotSupportedError(str(error)) from error
    image = found.to_cpu()
    patches(image)
    assert image.grid is not None
    return [read_out.look(pixels_BCHW, image, heard) for read_out, heard in zip(chosen, recorded, strict=True)], image.grid

"""What a tokeniser's folder says: ``tokenizer.json``, the settings beside it, and what transformers writes about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from tokenizers import Tokenizer as Engine

from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, read_json, read_text

AGAIN = "save the tokeniser again"


class _Stated(TypedDict):
    """What is read of ``tokenizer_config.json`` and ``config.json``."""

    pad_token: NotRequired[str | dict[str, object] | None]
    model_max_length: NotRequired[object]
    max_position_embeddings: NotRequired[object]


def _stated(path: Path) -> dict[str, object]:
    return dict(read_json(path, _Stated, AGAIN)) if os.path.lexists(path) else {}


def stated_pad_id(folder: Path, engine: Engine) -> int | None:
    """The padding token that ``tokenizer_config.json`` names, if any."""
    stated = _stated(folder / "tokenizer_config.json").get("pad_token")  # SigLIP pads with "</s>", which only this file says
    name = stated.get("content") if isinstance(stated, dict) else stated
    return engine.token_to_id(name) if name and isinstance(name, str) else None


def stated_context(folder: Path, engine: Engine) -> int:
    """The longest row: the file's truncation, else what the folder says of its model, else 77."""
    if engine.truncation is not None:
        return int(engine.truncation["max_length"])
    for name, field in (("tokenizer_config.json", "model_max_length"), ("config.json", "max_position_embeddings")):
        value = _stated(folder / name).get(field)
        if isinstance(value, int | float) and 2 < value <= 4096:  # "no limit" is written as 1e30
            return int(value)
    return 77


def read_engine(path: Path) -> Engine:
    """A ``tokenizer.json``.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    try:
        text = read_text(path, "a tokeniser folder holds tokenizer.json; make it again")
    except UnreadableError as error:
        raise UserError(str(error).replace("does not exist", "is missing")) if error.missing else error from None
    try:
        engine = Engine.from_str(text)
        engine.encode("a")
    except BaseException as error:  # the library's own panics are no Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        problem = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{path} is not a tokenizer.json that can be read ({problem}); make it again") from None
    return engine


@dataclass(frozen=True)
class ClipSettings:
    """What ``ClipTokenizer.save`` writes, beside the kind."""

    context_length: int
    clean: Literal["lower", "whitespace", "canonicalize"] = "lower"


@dataclass(frozen=True)
class FileSettings:
    """What ``FileTokenizer.save`` writes, beside the kind."""

    context_length: int
    clean: Literal["", "whitespace", "lower", "canonicalize"] = ""
    pad_id: int | None = None
    start: str | None = None
    end: str | None = None

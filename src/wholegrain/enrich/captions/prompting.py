"""Prompts are data: TOML files, one table a prompt, with a version that travels with every caption."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wholegrain.data.record import GeneratedCaption, generated_id
from wholegrain.errors import UserError
from wholegrain.suggest import closest

PACKAGED = Path(__file__).parent / "prompts" / "many_sided.toml"
_SENTENCE = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
_THOUGHT = re.compile(r"\s*<think>.*?(</think>|\Z)", re.DOTALL)  # of models that think aloud
_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Prompt:
    """One way to ask for a caption.

    Attributes:
        name: of its table in the file.
        text: what the model is asked, beside the image.
        role: of the captions; the name unless given.
        max_tokens: of an answer. A longer one is cut behind its last whole sentence.
        temperature: 0 takes the likeliest word each time.
        system: what the model is told before, if anything.
        edition: of the file.
    """

    name: str
    text: str
    role: str = ""
    max_tokens: int = 160
    temperature: float = 0.0
    system: str = ""
    edition: str = field(default="1", compare=True)

    def __post_init__(self) -> None:
        if not self.role:
            object.__setattr__(self, "role", self.name)

    @property
    def version(self) -> str:
        """The file's version, and 8 hex digits that change with any word or setting of the prompt."""
        told = {name: value for name, value in asdict(self).items() if name != "edition"}
        return f"{self.edition}.{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]}"

    def caption(self, key: str, text: str, model: str, seed: int) -> GeneratedCaption:
        """An answer as a row of the sidecar."""
        source = f"{model} {self.name}@{self.version} seed={seed}"
        own = generated_id(text, self.role, source)
        return GeneratedCaption(key, own, self.role, text, source, model, self.name, self.version, seed)

    def identity(self) -> dict[str, Any]:
        """All that an answer depends on, as plain values."""
        return {**asdict(self), "version": self.version}


def load_prompts(wanted: Sequence[str] = ()) -> tuple[Prompt, ...]:
    """Prompts by name from the packaged file, or from a file that is named first.

    Args:
        wanted: names; a ``.toml`` file before them is read in place of the packaged one; no names are all prompts of the file.

    Raises:
        UserError: a file or a prompt is not there, or says what cannot be understood.

    Example:
        >>> [prompt.role for prompt in load_prompts(["short", "counts"])]
        ['short', 'counts']
    """
    path, names = (Path(wanted[0]), wanted[1:]) if wanted and wanted[0].endswith(".toml") else (PACKAGED, wanted)
    found = _read(path)
    for name in names:
        if name not in found:
            raise UserError(f'{path.name} has no prompt "{name}"; {closest(name, found)}')
    return tuple(found[name] for name in dict.fromkeys(names)) if names else tuple(found.values())


def _read(path: Path) -> dict[str, Prompt]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file of prompts {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML ({error}).") from None
    version = str(told.pop("version", "1"))
    prompts = {name: _prompt(path, name, values, version) for name, values in told.items()}
    if not prompts:
        raise UserError(f'{path} has no prompts; write a table for each, such as [detail] with text = "...".')
    return prompts


def _prompt(path: Path, name: str, values: Any, version: str) -> Prompt:
    kinds = {f.name: f.type for f in fields(Prompt) if f.name not in ("name", "edition")}
    if not isinstance(values, dict) or not str(values.get("text", "")).strip() or not _NAME.fullmatch(name):
        raise UserError(f'{path}: the prompt {name!r} needs a plain name and a text, as in [detail] with text = "...".')
    for key, value in values.items():
        if key not in kinds:
            raise UserError(f"{path}: the prompt {name!r} has an unknown key {key!r}; {closest(key, kinds)}")
        right = isinstance(value, str) if kinds[key] == "str" else isinstance(value, int | float) and not isinstance(value, bool)
        if (
            not right
            or (key == "max_tokens" and not (isinstance(value, int) and value >= 1))
            or (key == "temperature" and value < 0)
        ):
            raise UserError(f"{path}: {name}.{key} = {value!r} is not allowed.")
    return Prompt(name=name, edition=version, **values)


def cleaned(text: str, cut: bool = False) -> str:
    """A model's answer as a caption: one line, without quotation marks around it; what was cut ends behind its last whole sentence.

    Returns:
        the caption; empty where nothing is left.

    Example:
        >>> cleaned(' "A dog runs.\\nIt is 3.5 years old. It ha', cut=True)
        'A dog runs. It is 3.5 years old.'
    """
    line = " ".join(_THOUGHT.sub("", text).split())
    if cut:
        ends = [found.end() for found in _SENTENCE.finditer(line)]
        line = line[: ends[-1]] if ends else ""
    line = line.strip()
    for left, right in (('"', '"'), ("“", "”"), ("'", "'")):
        if line.startswith(left) and (line.endswith(right) or cut) and left not in line[1:-1] and len(line) > 1:
            line = line[1:].removesuffix(right).strip()
    return line

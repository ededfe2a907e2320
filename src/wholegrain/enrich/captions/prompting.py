"""Prompts are data: TOML files, one table a prompt, with a version that travels with every caption."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wholegrain.data.record import GeneratedCaption, generated_id
from wholegrain.errors import UserError
from wholegrain.files import read_toml
from wholegrain.structure import StructureError, structure
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
        identity = {name: value for name, value in asdict(self).items() if name != "edition"}
        return f"{self.edition}.{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"

    def caption(self, key: str, text: str, model: str, seed: int) -> GeneratedCaption:
        """An answer as a row of the sidecar."""
        source = f"{model} {self.name}@{self.version} seed={seed}"
        own = generated_id(text, self.role, source)
        return GeneratedCaption(key, own, self.role, text, source, model, self.name, self.version, seed)

    def identity(self) -> dict[str, object]:
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


@dataclass(frozen=True)
class _PromptTable:
    """The table of a prompt; its name is the table's."""

    text: str
    role: str = ""
    max_tokens: int = 160
    temperature: float = 0.0
    system: str = ""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError('it needs a text, as in [detail] with text = "..."')
        if not 1 <= self.max_tokens <= 2**20:
            raise ValueError(f"max_tokens = {self.max_tokens} is not allowed, it must be from 1 to {2**20:,}")
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature = {self.temperature} is not allowed, it must be from 0 to 100")


def _read(path: Path) -> dict[str, Prompt]:
    advice = "give a file of prompts"
    tables = read_toml(path, advice)
    version = tables.pop("version", "1")
    if not isinstance(version, str | int | float):
        raise UserError(f"{path}: version is no text; {advice}.")
    prompts = {name: _prompt(path, name, values, str(version)) for name, values in tables.items()}
    if not prompts:
        raise UserError(f'{path} has no prompts; write a table for each, such as [detail] with text = "...".')
    return prompts


def _prompt(path: Path, name: str, values: object, version: str) -> Prompt:
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: the prompt {name!r} needs a plain name, of letters, digits and _.")
    try:
        return Prompt(name=name, edition=version, **asdict(structure(values, _PromptTable)))
    except StructureError as error:
        raise UserError(f"{path}: the prompt {name!r} {error}; correct it.") from None


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

"""Tokenisers: from text to rows of token ids at their true length, and back from words to positions.

Three kinds, one protocol (:class:`Tokenizer`):

* :class:`ClipTokenizer`: the byte-pair encoding of CLIP (Radford et al. 2021), as open_clip ships it.
* :class:`FileTokenizer`: any ``tokenizer.json`` of the ``tokenizers`` library, so also a Hugging Face folder, without
  transformers.
* :func:`wholegrain.text.trained.train_tokenizer`: a small :class:`FileTokenizer` made from one's own captions.

Rows are trimmed to the longest text of the call, not padded to the context length: short captions then cost what they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from tokenizers import Regex, models, normalizers, processors
from tokenizers import Tokenizer as Engine
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.files import read_json, write_text
from wholegrain.structure import StructureError, structure
from wholegrain.text.tokenizer_folder import AGAIN, ClipSettings, FileSettings, read_engine, stated_context, stated_pad_id

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

Span = tuple[int, int, int, int]
SETTINGS_FILE = "wholegrain_tokenizer.json"
MOST_CONTEXT = 2**15
_CACHE_LIMIT = 1 << 17
_LONG_WORD = 256  # letters
_PLAIN = re.compile(r"[ -%'-;=-~]*")  # printable ASCII but & and <: nothing that CLIP's repairs of text would touch
_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", re.IGNORECASE | re.ASCII)  # CLIP's pattern on these


@dataclass(frozen=True)
class Tokens:
    """Encoded texts.

    Attributes:
        tokens_NL: int64; L is the longest text of the call, shorter rows end in the tokeniser's ``pad_id``.
        length_N: int64, real tokens per row, start and end tokens included.
        cut_N: bool, True where the text was longer than the context and lost its end.
    """

    tokens_NL: Tensor
    length_N: Tensor
    cut_N: Tensor


class Tokenizer(Protocol):
    """What towers, loaders and reports ask of a tokeniser."""

    @property
    def context_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Tokens: ...
    def word_spans(self, text: str) -> list[Span]:
        """(char_start, char_end, token_start, token_end) per word; code points of ``text``, positions in ``encode``'s row."""
        ...

    def with_context(self, context_length: int) -> Tokenizer: ...
    def save(self, folder: str | Path) -> None: ...


def _tokens(rows: list[Sequence[int]], cut: list[bool], pad_id: int) -> Tokens:
    longest = max((len(row) for row in rows), default=0)
    padded = [[*row, *([pad_id] * (longest - len(row)))] for row in rows]
    tokens = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)
    return Tokens(tokens, torch.tensor([len(row) for row in rows], dtype=torch.int64), torch.tensor(cut, dtype=torch.bool))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _simple_tokenizer_class() -> type[SimpleTokenizer]:
    """Of open_clip's module by itself: its package imports torchvision and timm, seconds for which commands that only read data would wait."""
    name = "open_clip.tokenizer"
    package = importlib.util.find_spec("open_clip")
    if name in sys.modules or package is None or not package.submodule_search_locations:
        return importlib.import_module(name).SimpleTokenizer
    spec = importlib.util.spec_from_file_location("_open_clip_tokenizer", Path(package.submodule_search_locations[0], "tokenizer.py"))
    assert spec is not None  # a path that ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer


@cache
def _simple_tokenizer(clean: str) -> SimpleTokenizer:
    class QuickForLongWords(_simple_tokenizer_class()):
        """open_clip's merges take time quadratic in the length of a word; those of ``tokenizers`` do not."""

        def bpe(self, token: str) -> str:
            if len(token) <= _LONG_WORD:
                return super().bpe(token)
            return " ".join(part.value for part in long_words.tokenize(token))

    engine = QuickForLongWords(clean=clean)
    merges = [(one, other) for (one, other), _ in sorted(engine.bpe_ranks.items(), key=lambda item: item[1])]
    long_words = models.BPE(vocab=engine.encoder, merges=merges, end_of_word_suffix="</w>")
    return engine


class ClipTokenizer:
    """CLIP's byte-pair encoding, 49,408 tokens, through open_clip's ``SimpleTokenizer``; texts seen before come from a cache.

    Args:
        context_length: longest row, start and end tokens included; CLIP's is 77.
        clean: ``lower`` (CLIP), ``whitespace`` or ``canonicalize`` (also without punctuation), open_clip's names.

    Example:
        >>> tokenizer = ClipTokenizer()
        >>> tokenizer.encode(["a cat", "two black cats"]).length_N.tolist()
        [4, 5]
        >>> tokenizer.word_spans("A  cat")
        [(0, 1, 1, 2), (3, 6, 2, 3)]
    """

    def __init__(self, context_length: int = 77, clean: str = "lower") -> None:
        self._engine = _simple_tokenizer(clean)
        self.context_length = context_length
        self.clean = clean
        self.vocab_size: int = self._engine.vocab_size
        self.pad_id = 0
        self._seen: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[int]] = {}

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = self._seen.get(text)
        if ids is None:
            if len(self._seen) >= _CACHE_LIMIT:
                self._seen.clear()
            plain = self.clean != "canonicalize" and _PLAIN.fullmatch(text)
            ids = self._seen[text] = tuple(self._plain_ids(text) if plain else self._engine.encode(text))
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        """What open_clip's ``encode`` gives for plain text, word by word from a cache: a third of its time."""
        ids: list[int] = []
        for piece in _PIECE.findall(text.lower() if self.clean == "lower" else text):
            known = self._pieces.get(piece)
            if known is None:
                if len(self._pieces) >= _CACHE_LIMIT:
                    self._pieces.clear()
                known = self._pieces[piece] = [self._engine.encoder[part] for part in self._engine.bpe(piece).split(" ")]
            ids += known
        return ids

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Token rows of ``texts``, trimmed to the longest of them."""
        room = self.context_length - 2
        start, end = self._engine.sot_token_id, self._engine.eot_token_id
        found = [self._ids(text) for text in texts]
        return _tokens([(start, *ids[:room], end) for ids in found], [len(ids) > room for ids in found], self.pad_id)

    def word_spans(self, text: str) -> list[Span]:
        """Words as CLIP's pattern splits them (a run of letters, one digit, a run of signs).

        CLIP repairs text (ftfy, HTML entities) before it splits. Words inside a stretch that was rewritten have no place in the
        given text; they are left out, the words before and after it are kept.
        """
        whole = self._ids(text)
        pieces = [(m.start(), m.end(), self._ids(m.group())) for m in self._engine.pat.finditer(text)]
        spans = _match_from_left(pieces, whole)
        if len(spans) < len(pieces) or (spans and spans[-1][3] < len(whole)) or (not spans and whole):
            spans = _match_both_ends(pieces, whole)
        room = self.context_length - 2
        return [(a, b, s + 1, min(e, room) + 1) for a, b, s, e in spans if s < room]

    def with_context(self, context_length: int) -> ClipTokenizer:
        """The same, with rows of another length at most."""
        return ClipTokenizer(context_length, self.clean)

    def save(self, folder: str | Path) -> None:
        """Writes the settings; the vocabulary itself comes with open_clip."""
        settings = {"kind": "clip", "context_length": self.context_length, "clean": self.clean}
        _write(Path(folder) / SETTINGS_FILE, json.dumps(settings, indent=1))


def _match_from_left(pieces: list[tuple[int, int, tuple[int, ...]]], whole: tuple[int, ...]) -> list[Span]:
    spans, place = [], 0
    for start, end, ids in pieces:
        if not ids or whole[place : place + len(ids)] != ids:
            break
        spans.append((start, end, place, place + len(ids)))
        place += len(ids)
    return spans


def _match_both_ends(pieces: list[tuple[int, int, tuple[int, ...]]], whole: tuple[int, ...]) -> list[Span]:
    left = _match_from_left(pieces, whole)
    mirrored = [(-end, -start, ids[::-1]) for start, end, ids in reversed(pieces)]
    right = [(-b, -a, len(whole) - e, len(whole) - s) for a, b, s, e in _match_from_left(mirrored, whole[::-1])][::-1]
    char_end, token_end = (left[-1][1], left[-1][3]) if left else (0, 0)
    return left + [span for span in right if span[0] >= char_end and span[2] >= token_end]


_CLEANERS: dict[str, list[normalizers.Normalizer]] = {
    "": [],
    "whitespace": [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()],
    "lower": [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()],
    # big_vision's canonicalisation (SigLIP): underscores are spaces, ASCII punctuation goes, lower case.
    "canonicalize": [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ],
}


class FileTokenizer:
    """A ``tokenizer.json`` of the ``tokenizers`` library; batches are encoded in parallel by that library.

    Args:
        engine: the loaded tokeniser; it is copied, its own padding and truncation are replaced.
        context_length: longest row, special tokens included.
        clean: ``""``, ``whitespace``, ``lower`` or ``canonicalize``, done before the file's own normaliser. open_clip's ``ftfy``
            repair of broken text is not done here.
        start, end: special tokens to set around every text; ``None`` leaves what the file says.
        pad_id: ``None`` takes the file's padding token, else ``[PAD]`` or ``<pad>``, else 0.
    """

    def __init__(
        self,
        engine: Engine,
        context_length: int,
        clean: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        pad_id: int | None = None,
    ) -> None:
        if clean not in _CLEANERS:
            raise UserError(f"the tokeniser's clean is {clean!r}; use one of {', '.join(map(repr, _CLEANERS))}")
        self.pad_id = _find_pad_id(engine) if pad_id is None else pad_id
        engine = Engine.from_str(engine.to_str())
        self._stored = engine.to_str()  # as given: what is added below is made again on loading
        self._around = (start, end)
        if start is not None or end is not None:
            engine.post_processor = _around(engine, start, end)
        if _CLEANERS[clean]:
            own = [engine.normalizer] if engine.normalizer is not None else []
            engine.normalizer = normalizers.Sequence([*_CLEANERS[clean], *own])
        engine.no_padding()
        if context_length <= engine.num_special_tokens_to_add(False):
            raise UserError(f"the context length {context_length} leaves no room for a text; raise it")
        engine.enable_truncation(context_length)
        self._engine = engine
        self.context_length = context_length
        self.clean = clean
        self.vocab_size: int = max(engine.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Token rows of ``texts``, trimmed to the longest of them."""
        found = self._engine.encode_batch(list(texts))
        return _tokens([e.ids for e in found], [len(e.overflowing) > 0 for e in found], self.pad_id)

    def word_spans(self, text: str) -> list[Span]:
        """Words as the file's pre-tokeniser splits them; words beyond the context are left out."""
        found = self._engine.encode(text)
        spans: list[Span] = []
        last = None
        for place, (word, (start, end)) in enumerate(zip(found.word_ids, found.offsets, strict=True)):
            if word is None:
                last = None
                continue
            if word == last:
                a, b, s, _ = spans[-1]
                spans[-1] = (min(a, start), max(b, end), s, place + 1)
            else:
                spans.append((start, end, place, place + 1))
            last = word
        return [_without_space(text, span) for span in spans if span[0] < span[1]]

    def with_context(self, context_length: int) -> FileTokenizer:
        """The same, with rows of another length at most."""
        start, end = self._around
        stored = Engine.from_str(self._stored)
        return FileTokenizer(stored, context_length, self.clean, start=start, end=end, pad_id=self.pad_id)

    def whole_engine(self) -> Engine:
        """A tokeniser of the ``tokenizers`` library that does all that this one does but cut: cleaning and special tokens included."""
        engine = Engine.from_str(self._engine.to_str())
        engine.no_truncation()
        return engine

    def given_engine(self) -> Engine:
        """The ``tokenizer.json`` that this one was made from."""
        return Engine.from_str(self._stored)

    def save(self, folder: str | Path) -> None:
        """Writes ``tokenizer.json`` and the settings beside it."""
        start, end = self._around
        settings = {"kind": "file", "context_length": self.context_length, "clean": self.clean, "pad_id": self.pad_id}
        _write(Path(folder) / "tokenizer.json", self._stored)
        _write(Path(folder) / SETTINGS_FILE, json.dumps({**settings, "start": start, "end": end}, indent=1))

    @classmethod
    def from_folder(cls, folder: str | Path, context_length: int | None = None, *, clean: str = "", start: str | None = None) -> FileTokenizer:
        """A Hugging Face folder's ``tokenizer.json``; the context length is the file's truncation, else its model's, else 77."""
        folder = Path(folder)
        engine = read_engine(folder / "tokenizer.json")
        pad_id = stated_pad_id(folder, engine)
        return cls(engine, context_length or stated_context(folder, engine), clean, start=start, pad_id=pad_id)


def _without_space(text: str, span: Span) -> Span:
    # byte-level and sentencepiece tokenisers count the space before a word as part of it
    start, end = span[:2]
    while start < end - 1 and text[start].isspace():
        start += 1
    while end > start + 1 and text[end - 1].isspace():
        end -= 1
    return start, end, span[2], span[3]


def _find_pad_id(engine: Engine) -> int:
    if engine.padding is not None:
        return int(engine.padding["pad_id"])
    for name in ("[PAD]", "<pad>", "<|padding|>"):
        if (found := engine.token_to_id(name)) is not None:
            return found
    return 0


def _around(engine: Engine, start: str | None, end: str | None) -> processors.TemplateProcessing:
    ids = {}
    for name in filter(None, (start, end)):
        if (number := engine.token_to_id(name)) is None:
            raise UserError(f"the tokeniser has no token {name!r} to set around a text; name one of its special tokens")
        ids[name] = number
    template = " ".join(part for part in (start, "$A", end) if part)
    return processors.TemplateProcessing(single=template, special_tokens=list(ids.items()))


def load_tokenizer(folder: str | Path) -> ClipTokenizer | FileTokenizer:
    """The tokeniser that ``save`` wrote into a folder, or a plain Hugging Face folder's ``tokenizer.json``.

    Raises:
        UserError: a file is missing, damaged or of another kind; names the file and the key.
    """
    folder = Path(folder)
    path = folder / SETTINGS_FILE
    if not os.path.lexists(path):
        return FileTokenizer.from_folder(folder)
    settings = read_json(path, dict[str, object], AGAIN)
    kind = settings.pop("kind", None)
    if kind not in ("clip", "file"):
        named = repr(kind)[:60]
        raise UserError(f"{path} names a kind of tokeniser, {named}, that this version does not know; use 'clip' or 'file'")
    try:
        made = structure(settings, ClipSettings) if kind == "clip" else structure(settings, FileSettings)
    except StructureError as error:
        raise UserError(f"{path} cannot be read, it {error}; {AGAIN}") from None
    if not 3 <= made.context_length <= MOST_CONTEXT:
        raise UserError(f"{path} has a context_length of {made.context_length}, not 3 to {MOST_CONTEXT:,}; {AGAIN}")
    if isinstance(made, ClipSettings):
        return ClipTokenizer(made.context_length, made.clean)
    engine = read_engine(folder / "tokenizer.json")
    tokenizer = FileTokenizer(engine, made.context_length, made.clean, start=made.start, end=made.end, pad_id=made.pad_id)
    if not 0 <= tokenizer.pad_id < tokenizer.vocab_size:
        raise UserError(f"{path} has a pad_id of {made.pad_id}, which no token has; {AGAIN}")
    return tokenizer

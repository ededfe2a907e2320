"""The tokeniser of a decoder: one of whole words for a new one, its own for one from a folder; both are transformers' fast tokenisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wholegrain.errors import UserError
from wholegrain.files import digest, sha256, shown
from wholegrain.towers.sources.hf_library import quiet, transformers_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE = "<image>"
NEEDS = "Question answering"


@dataclass(frozen=True)
class Words:
    """Texts as token ids of a decoder, and back.

    Attributes:
        tokenizer: transformers'; knows ``<image>``.
        parts: the prompt's texts before the picture, between picture and question, behind the question.
        fresh: it is a new one of whole words.
    """

    tokenizer: PreTrainedTokenizerBase
    parts: tuple[str, str, str]
    fresh: bool

    @property
    def image(self) -> int:
        """The id that stands for a token of the picture."""
        return _single(self.tokenizer.convert_tokens_to_ids(IMAGE))

    @property
    def end(self) -> int:
        """The id that ends an answer."""
        return _single(self.tokenizer.eos_token_id)

    @property
    def padding(self) -> int:
        """The id in empty places."""
        own = self.tokenizer.pad_token_id
        return self.end if own is None else _single(own)

    @property
    def before(self) -> list[int]:
        """Ids before the picture: the token that begins a text, if there is one, and the prompt's."""
        start = self.tokenizer.bos_token_id
        return ([] if start is None else [_single(start)]) + self.ids(self.parts[0])

    def ids(self, text: str) -> list[int]:
        """Ids of a text without further tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False) if text.strip() else []

    def question(self, text: str) -> list[int]:
        """Ids from behind the picture to the answer."""
        return self.ids(self.parts[1] + text + self.parts[2])

    def answer(self, text: str) -> list[int]:
        """Ids of an answer and its end."""
        return [*self.ids(text if self.fresh else f" {text}"), self.end]

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Answers of generated ids, each up to its end."""
        cut = [list(row[: row.index(self.end)] if self.end in row else row) for row in map(list, rows)]
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in cut]


def _single(token: object) -> int:
    assert isinstance(token, int)
    return token


def new_words(texts: Sequence[str], parts: tuple[str, str, str]) -> Words:
    """Whole words and marks of these texts (in lower case), in the order of the alphabet; all others are one unknown word."""
    transformers = transformers_for(NEEDS)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    split = Whitespace()
    known = {word for text in {*texts, *parts} for word, _ in split.pre_tokenize_str(text.lower())}
    marks = ["<pad>", "<s>", "</s>", "<unk>", IMAGE]
    made = Tokenizer(WordLevel({word: n for n, word in enumerate([*marks, *sorted(known - set(marks))])}, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = Lowercase(), split
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=[IMAGE]
    )
    return Words(tokenizer, parts, True)


def words_of(folder: Path, parts: tuple[str, str, str]) -> Words:
    """The tokeniser of a folder, with ``<image>`` added where it lacks it.

    Raises:
        UserError: there is none, or one that has no token for the end of a text.
    """
    transformers = transformers_for(NEEDS)
    try:
        with quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many things
        problem = (str(error).splitlines() or [""])[0][:160]
        raise UserError(f"The tokeniser of {shown(folder)} cannot be read ({type(error).__name__}: {problem}); get the complete model.") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokeniser of {shown(folder)} has no token that ends a text; choose another model.")
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    return Words(tokenizer, parts, False)


def folder_digest(folder: Path) -> str:
    """A hash of a model's files: its configuration, weights and tokeniser."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")) if folder.is_dir() else []
    return digest([[name, sha256(folder / name)] for name in names])

"""A frozen causal language model of transformers, from a folder, with its tokeniser and its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.files import digest, sha256, shown
from wholegrain.towers.sources.hf_library import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEEDED = "Captioning needs transformers and pycocoevalcap; install them with: pip install 'wholegrain[caption]'"


def require_transformers() -> ModuleType:
    """transformers. Raises :class:`UserError` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError(NEEDED) from None
    return transformers


@dataclass(frozen=True)
class Captions:
    """Captions as rows of tokens.

    Attributes:
        tokens_NL: int64, each row a start mark, the caption, an end mark, and then padding.
        length_N: int64, with both marks.
    """

    tokens_NL: Tensor
    length_N: Tensor

    def to(self, device: torch.device) -> Captions:
        """On another device."""
        return Captions(self.tokens_NL.to(device), self.length_N.to(device))


@dataclass(frozen=True)
class Decoder:
    """A causal language model that is never changed.

    Attributes:
        model: in eval mode, without gradients for its own parameters.
        tokenizer: its own.
        layers: its transformer layers, in order: each takes hidden states ``[B, L, W]`` first.
        width: W.
        start, end: ids of the marks before and behind a caption; often one and the same.
        digest: of weights, configuration and vocabulary.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[nn.Module, ...]
    width: int
    start: int
    end: int
    digest: str

    @property
    def pad(self) -> int:
        """What rows are filled up with behind their end; never looked at."""
        found = self.tokenizer.pad_token_id
        return found if isinstance(found, int) else self.end

    def captions(self, texts: Sequence[str], most: int) -> Captions:
        """Captions of ``most`` tokens at most, the end mark counted and the start mark not; longer ones lose their end, and its mark."""
        rows = [[self.start, *ids, self.end][: most + 1] for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.pad)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return Captions(tokens, torch.tensor([len(ids) for ids in rows]))

    def logits(self, tokens_BL: Tensor) -> Tensor:
        """``[B, L, vocabulary]``: at each place, of the token that follows."""
        return self.model(input_ids=tokens_BL, attention_mask=torch.ones_like(tokens_BL), use_cache=False).logits

    def texts(self, tokens_NL: Tensor) -> list[str]:
        """What rows of tokens say, without marks."""
        return [text.strip() for text in self.tokenizer.batch_decode(tokens_NL, skip_special_tokens=True)]


def load_decoder(folder: Path, most: int) -> Decoder:
    """A decoder from a Hugging Face folder: ``config.json``, ``model.safetensors``, ``tokenizer.json``; nothing of it is run as code.

    Args:
        most: tokens of the longest caption, see :meth:`Decoder.captions`.

    Raises:
        UserError: what is there is no whole causal language model, has no mark to end with, or too short a context.
    """
    transformers = require_transformers()
    advice = "give --decoder a folder with config.json, model.safetensors and tokenizer.json of a causal language model (GPT-2, Llama, …)"
    if not (folder / "config.json").is_file():
        raise UserError(f"{shown(folder)} holds no language model (there is no config.json); {advice}.")
    try:
        with quiet(transformers):
            model, report, tokenizer = _read(folder)
    except Exception as error:  # transformers raises whatever its parts raise
        why = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(f"{shown(folder)} cannot be read as a causal language model ({why}); {advice}.") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[0]
        raise UserError(f"{shown(folder)} lacks weights of its model, such as {name}; {advice}.")
    model.generation_config = transformers.GenerationConfig()  # a folder's own may sample
    model.requires_grad_(False).eval()
    found = _assembled(folder, model, tokenizer)
    _check(folder, found, most)
    return found


def _read(folder: Path) -> tuple[PreTrainedModel, dict[str, Sequence[object]], PreTrainedTokenizerBase]:
    """Model, what of it was missing, and tokeniser."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, torch_dtype=torch.float32, output_loading_info=True
    )
    assert isinstance(loaded, tuple)
    return *loaded, AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _assembled(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Decoder:
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    if not (isinstance(start, int) and isinstance(end, int)):
        raise UserError(f"The tokeniser of {shown(folder)} has no end mark (eos_token); state one in its tokenizer_config.json.")
    config = model.config.get_text_config()
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == config.num_hidden_layers]
    if len(lists) != 1:
        raise UserError(f"The layers of the {config.model_type} model in {shown(folder)} are not found; give one in the form of GPT-2 or Llama.")
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", *folder.glob("tokenizer.json")])
    return Decoder(
        model, tokenizer, tuple(lists[0]), int(config.hidden_size), start, end, digest([sha256(file) for file in files])[:16]
    )


@torch.no_grad()
def _check(folder: Path, decoder: Decoder, most: int) -> None:
    """Refuses what cannot caption: a short context, a small table of tokens, a model that sees what follows."""
    context = getattr(decoder.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and context < most + 1:
        raise UserError(f"The model in {shown(folder)} reads {context} tokens at most; lower data.max_tokens to {context - 1} (now {most}).")
    table = decoder.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    rows = len(table)
    if len(decoder.tokenizer) > rows:
        raise UserError(f"The tokeniser of {shown(folder)} has {len(decoder.tokenizer):,} tokens and its model {rows:,}; they do not belong together.")
    tokens = torch.tensor([[decoder.start, 0, 1], [decoder.start, 0, 2]])
    first, other = decoder.logits(tokens)
    if not torch.allclose(first[:2], other[:2], atol=1e-4):
        raise UserError(f"The model in {shown(folder)} is not causal: what follows changes what it says before; give one like GPT-2 or Llama.")

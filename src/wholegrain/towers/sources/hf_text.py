"""A text tower from a Hugging Face folder: BERT and its kin, MiniLM, RoBERTa, DistilBERT, …, pooled by the mean over real tokens
or the first token.

Pooling layers that the checkpoint does not hold are never used: ``BertModel`` would make up a random one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.files import read_json
from wholegrain.text.tokenizer import MOST_CONTEXT
from wholegrain.towers.base import NOTHING, Config, RawText, TextTower, masked_mean, real_tokens
from wholegrain.towers.bounds import build_on_meta, check_numbers, first_line, without_code
from wholegrain.towers.sources.hf_library import quiet, transformers_for
from wholegrain.towers.tensor_files import read_header, safetensors_of, size_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

AGAIN = "get the complete model"
POOLS = ("mean", "first")
WHO = "a text tower from a Hugging Face folder"


class HfTextTower(TextTower):
    """A Hugging Face encoder.

    Args:
        net: the encoder; called with ``input_ids`` and ``attention_mask``.
        pool: ``mean`` (sentence-transformers' usual) or ``first`` (the CLS token).
        context_length: longest row.
    """

    true_length = True  # by the attention mask; a test checks it

    def __init__(self, net: PreTrainedModel, pool: str = "mean", context_length: int = 77) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"the text tower's pool is {pool!r}; use {' or '.join(POOLS)}")
        self.net = net
        self.pool = pool
        self.context_length = context_length
        self.width = int(getattr(net.config, "hidden_size", None) or net.config.dim)

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """See :class:`TextTower`."""
        mask_NL = real_tokens(length_N, tokens_NL.shape[1])
        x = self.net(input_ids=tokens_NL, attention_mask=mask_NL.long()).last_hidden_state
        pooled = masked_mean(x, mask_NL) if self.pool == "mean" else x[:, 0]
        return RawText(pooled, x if "tokens" in needs else None, mask_NL)

    def set_context(self, context: int, resample: Callable[[Tensor], Tensor]) -> None:
        """As long as the encoder's own positions reach."""
        limit = getattr(self.net.config, "max_position_embeddings", context)
        if context > limit:
            raise UserError(
                f"the text tower ({self.net.config.model_type}) has {limit} positions and they cannot be stretched here; set context={limit} or less"
            )
        self.context_length = context

    def stages(self) -> list[nn.Module]:
        """The encoder's layers."""
        for name in ("encoder.layer", "transformer.layer", "layers", "encoder.layers"):
            try:
                found = self.net.get_submodule(name)
            except AttributeError:
                continue
            if isinstance(found, nn.ModuleList):
                return list(found)
        return [self.net]

    def config(self) -> Config:
        """JSON-able; enough for :func:`wholegrain.towers.io.build_text_tower`."""
        return {
            "kind": "hf",
            "hf": json.loads(self.net.config.to_json_string(use_diff=False)),
            "pool": self.pool,
            "context_length": self.context_length,
            "tune": self.tuned,
        }


def hf_text_tower(folder: str | Path, pool: str = "mean", context_length: int | None = None) -> HfTextTower:
    """A text tower from a folder with ``config.json`` and ``model.safetensors``; nothing is downloaded, no code in the folder is
    run.

    ``context_length`` is the longest row, by default 77 or as many as the model has positions.

    Raises:
        UserError: transformers is missing, no such folder, or weights that do not fit.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise UserError(f"{folder} is no Hugging Face model folder (no config.json); check the path")
    transformers_for(WHO)
    stated = read_json(path, Config, AGAIN)
    check_numbers(stated, str(path), AGAIN)
    weights = safetensors_of(folder, AGAIN)
    if not weights:
        raise UserError(f"{folder} cannot be loaded as a text tower (it has no model.safetensors); it needs safetensors weights")
    most = sum(size_of(file, AGAIN) for file in weights)
    for file in weights:
        read_header(file, AGAIN)
    build_on_meta(lambda: _network(stated), 2 * most + 10**7, str(path), AGAIN)
    try:
        net, info = _read_encoder(folder)
    except Exception as error:  # transformers raises whatever its parts raise
        raise UserError(
            f"{folder} cannot be loaded as a text tower ({first_line(error)}); it needs safetensors weights"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(f"the weights in {folder} lack {missing[0]} and {len(missing) - 1} more; get the complete model")
    return HfTextTower(net.float(), pool, _fitting(net.config, context_length))


def _read_encoder(folder: Path) -> tuple[PreTrainedModel, dict[str, list[str]]]:
    transformers = transformers_for(WHO)
    options: dict[str, object] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    with quiet(transformers):
        try:
            return transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False, **options)
        except TypeError:  # encoders that never have a pooling layer refuse the word
            return transformers.AutoModel.from_pretrained(folder, **options)


def build_hf_text(config: Config) -> HfTextTower:
    """The text tower of a saved configuration, random weights."""
    return HfTextTower(_network(config["hf"]).float(), config["pool"], config["context_length"])


def _network(stated: Config) -> PreTrainedModel:
    """The encoder of a configuration, random weights."""
    transformers = transformers_for(WHO)
    settings = without_code(dict(stated), "the text tower's configuration")
    hf_config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    try:
        return transformers.AutoModel.from_config(hf_config, add_pooling_layer=False)
    except TypeError:
        return transformers.AutoModel.from_config(hf_config)


def _fitting(config: PreTrainedConfig, context_length: int | None) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if context_length is None:
        return min(77, limit or 77)
    if not 4 <= context_length <= MOST_CONTEXT:
        raise UserError(f"the context is {context_length:,}; it must be from 4 to {MOST_CONTEXT:,}")
    if limit is not None and context_length > limit:
        raise UserError(f"the text tower has {limit} positions, fewer than the context of {context_length}; set it to {limit}")
    return context_length

"""A small language model of one's own captions: the decoder where none is given. It is written as an ordinary Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wholegrain.downstream.captioning.decoder import Captions, require_transformers
from wholegrain.downstream.captioning.settings import DecoderSettings
from wholegrain.downstream.captioning.task import token_loss
from wholegrain.files import digest, disk_errors, folder_aside, write_json
from wholegrain.objectives.schema import Optimiser
from wholegrain.progress import Show, nowhere
from wholegrain.towers.sources.hf_library import quiet
from wholegrain.training.loading.streams import stream
from wholegrain.training.schedule import learning_rate
from wholegrain.training.step import seed_everything

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"
_ORDER = 18  # purpose of the random stream


def identity(texts: Sequence[str], settings: DecoderSettings, most: int, seed: int) -> str:
    """What a trained decoder is a function of, in 12 hex digits: its folder's name."""
    return digest([repr(replace(settings, digest="")), most, seed, list(texts)])[:12]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level byte pairs of these texts, as GPT-2 has them: every text comes back as it was, no word is unknown.

    Args:
        vocabulary: most tokens, among them 256 bytes, the end mark (which begins a text, too) and padding.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    engine.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=engine, bos_token=END, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False)


def train_language_model(
    texts: Sequence[str], settings: DecoderSettings, most: int, seed: int, out: Path, device: torch.device, show: Show = nowhere
) -> None:
    """Trains GPT-2's form on captions and writes it to ``out``, whole or not at all.

    Token vectors, which are also what logits are read with, are drawn with a deviation of width^-1/2 (GPT-2's: 0.02). Captions alone never tell
    apart words that stand in the same places, as colours do; their vectors then differ by that draw alone, and a frozen decoder in which they
    hardly differ cannot be made to say one and not the other, whatever it is shown.

    Args:
        texts: captions of the training split.
        most: tokens of the longest caption, its end mark included.
        seed: of weights, order and dropout.
    """
    transformers = require_transformers()
    from transformers import GPT2Config, GPT2LMHeadModel

    seed_everything(seed)
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    end, pad = (tokenizer.get_vocab()[mark] for mark in (END, PAD))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=most + 1, n_embd=settings.width, n_layer=settings.layers, n_head=settings.heads,
        resid_pdrop=settings.dropout, embd_pdrop=settings.dropout, attn_pdrop=settings.dropout, bos_token_id=end, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=settings.width**-0.5)
    nn.Module.to(model, device).train()
    rows = [[end, *ids, end][: most + 1] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, fused=True)
    rates = Optimiser(lr=settings.lr, warmup_steps=settings.warmup_steps)
    first = last = 0.0
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, settings.steps, rates)
        chosen = stream(seed, step, _ORDER).integers(len(rows), size=settings.batch)
        captions = _padded([rows[int(n)] for n in chosen], pad).to(device)
        seen = captions.tokens_NL[:, :-1]
        logits = model(input_ids=seen, attention_mask=torch.ones_like(seen), use_cache=False).logits  # what is padded follows, and is not seen
        total, count = token_loss(logits, captions)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        last = float(total.detach()) / count
        first = first or last
        show("the decoder, a language model of the captions", step + 1, settings.steps)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with folder_aside(out) as part, quiet(transformers):
            nn.Module.to(model, torch.device("cpu"))
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            write_json(part / "training.json", {"captions": len(texts), "seed": seed, "loss_first": first, "loss_last": last, **vars(settings)})


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Captions:
    tokens = np.full((len(rows), max(map(len, rows))), pad, dtype=np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return Captions(torch.from_numpy(tokens), torch.tensor([len(ids) for ids in rows]))

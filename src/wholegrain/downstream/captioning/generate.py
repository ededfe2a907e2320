"""Captions of pictures: greedy or beam search by transformers' ``generate``, in batches, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from wholegrain.downstream.captioning.captioner import Captioner
from wholegrain.downstream.captioning.decoder import Decoder
from wholegrain.downstream.captioning.settings import Generation
from wholegrain.downstream.pictures import TowerTokens
from wholegrain.progress import Show, nowhere

if TYPE_CHECKING:
    from transformers import GenerationConfig


class _Generates(Protocol):
    """What is asked of a model of transformers here; its own type of ``generate`` cannot be met."""

    def generate(self, *, input_ids: Tensor, attention_mask: Tensor, generation_config: GenerationConfig) -> object: ...


@torch.no_grad()
def continuations(decoder: Decoder, rows: int, generation: Generation, most: int) -> Tensor:
    """The likeliest continuations of ``rows`` start marks, int64 ``[rows, L]``, filled up behind their ends; without the start mark.

    With beams, a hypothesis' score is its log probability divided by its length to the power of ``length_penalty``; a search ends when no
    running hypothesis can still win. What is found need not be the likeliest of all, unless there are as many beams as hypotheses.

    Args:
        most: tokens of the longest one, its end mark included.
    """
    from transformers import GenerationConfig

    start = torch.full((rows, 1), decoder.start, device=decoder.model.device)
    search = {"length_penalty": generation.length_penalty, "early_stopping": "never"} if generation.beams > 1 else {}
    config = GenerationConfig(
        num_beams=generation.beams,
        do_sample=False,
        max_new_tokens=most,
        bos_token_id=decoder.start,
        eos_token_id=decoder.end,
        pad_token_id=decoder.pad,
        **search,
    )
    found = cast(_Generates, decoder.model).generate(input_ids=start, attention_mask=torch.ones_like(start), generation_config=config)
    assert isinstance(found, Tensor)
    return found[:, 1:].cpu()


def captions_of(
    captioner: Captioner, decoder: Decoder, tokens: TowerTokens, keys: Sequence[str], generation: Generation, most: int, show: Show = nowhere
) -> list[str]:
    """A caption for each picture, in the order of the keys."""
    found: list[str] = []
    for part, raw in tokens.batches(keys, generation.batch, show):
        assert raw.patches_BPV is not None
        found += _said(decoder, captioner.shown(decoder, raw.patches_BPV), len(part), generation, most)
    return found


def blind_caption(decoder: Decoder, generation: Generation, most: int) -> str:
    """What the decoder says without a picture: all gates at 0."""
    return _said(decoder, nullcontext(), 1, generation, most)[0]


def _said(decoder: Decoder, shown: AbstractContextManager[None], rows: int, generation: Generation, most: int) -> list[str]:
    with torch.no_grad(), shown:
        return decoder.texts(continuations(decoder, rows, generation, most))

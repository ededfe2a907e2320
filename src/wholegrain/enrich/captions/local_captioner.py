"""Captions from a vision-language model on this machine: transformers' image-text-to-text models, in batches."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from PIL import Image

from wholegrain.data.record import GeneratedCaption, Record
from wholegrain.enrich.captions.prompting import Prompt, cleaned
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


class LocalCaptions(Stage):
    """A caption for each image and prompt.

    Batches are cut by what a unit of work holds, so the same data give the same batches, and with them the same rounding, however the work
    is shared out. A prompt with a temperature is sampled one image at a time, by seed, key and prompt.

    Args:
        model: a folder or a Hugging Face name of an image-text-to-text model.
        prompts: what to ask.
        seed: of sampling.
        batch: images at a time.
        device: ``auto`` takes the GPU if there is one.
        max_side: a larger image is made smaller until its longer side has so many pixels; 0 leaves that to the model's own preprocessing.
    """

    name, table, looks, place = "captions", "captions", "pixels", "device"

    def __init__(
        self, model: str, prompts: Sequence[Prompt], seed: int = 0, batch: int = 16, device: str = "auto", max_side: int = 1024
    ) -> None:
        self.model, self.prompts, self.seed, self.batch = model, tuple(prompts), seed, batch
        self.device, self.max_side = device, max_side
        self.identity = {
            "method": "transformers",
            "model": model,
            "prompts": [prompt.identity() for prompt in prompts],
            "seed": seed,
            "batch": batch,
            "max_side": max_side,
        }

    def __reduce__(self) -> tuple[type[LocalCaptions], tuple[object, ...]]:
        return LocalCaptions, (self.model, self.prompts, self.seed, self.batch, self.device, self.max_side)

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """A caption, or a failure, for each record and prompt."""
        pictures = [self._picture(pixels_HWC) for pixels_HWC in pixels]
        made: list[list[GeneratedCaption | Failure]] = [[] for _ in records]
        for prompt in self.prompts:
            size = 1 if prompt.temperature else self.batch
            for start in range(0, len(records), size):
                part = slice(start, start + size)
                answers = self._asked(prompt, pictures[part], records[start].key)
                for own, record, (text, cut) in zip(made[part], records[part], answers, strict=True):
                    own.append(self._row(record, prompt, text, cut))
        return [tuple(own) for own in made]

    def _row(self, record: Record, prompt: Prompt, text: str, cut: bool) -> GeneratedCaption | Failure:
        caption = cleaned(text, cut)
        if caption:
            return prompt.caption(record.key, caption, self.model, self.seed)
        problem = f"cut at {prompt.max_tokens} tokens, before its first sentence ended" if text.strip() else "empty"
        return Failure(record.key, f"prompt {prompt.name}: the answer was {problem}")

    def _picture(self, pixels_HWC: Picture) -> Image.Image:
        picture = Image.fromarray(np.asarray(pixels_HWC))
        if self.max_side and max(picture.size) > self.max_side:
            picture.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        return picture

    def _asked(self, prompt: Prompt, pictures: Sequence[Image.Image], first: str) -> list[tuple[str, bool]]:
        """Answers, and whether each was cut."""
        import torch

        model, processor = self._loaded
        system = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
        messages = [
            [*system, {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt.text}]}]
            for picture in pictures
        ]
        padded: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if "processor_kwargs" in inspect.signature(processor.apply_chat_template).parameters:  # transformers 5
            padded = {"processor_kwargs": padded}
        inputs: Any = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, **padded)
        inputs = inputs.to(model.device)
        if model.dtype.is_floating_point:
            inputs = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        chance: dict[str, float] = {"do_sample": False}
        if prompt.temperature:
            torch.manual_seed(crc32(f"{self.seed}:{first}:{prompt.name}".encode()))
            chance = {"do_sample": True, "temperature": prompt.temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            tokens_NL = model.generate(**inputs, max_new_tokens=prompt.max_tokens, **chance)
        new_NL = tokens_NL[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(new_NL, skip_special_tokens=True)
        ends = _ends(model, processor)
        return [(text, not any(token in ends for token in row)) for text, row in zip(texts, new_NL.tolist(), strict=True)]

    @cached_property
    def _loaded(self) -> tuple[Any, ProcessorMixin]:
        return _load(self.model, self.device)


def _load(name: str, device: str) -> tuple[Any, ProcessorMixin]:
    import torch

    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UserError('A local model needs transformers; install it with: pip install "wholegrain[hf]"') from None
    place = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.float32 if place == "cpu" else torch.bfloat16
    try:
        processor: ProcessorMixin = AutoProcessor.from_pretrained(name)
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=kind)
    except (OSError, ValueError, KeyError) as error:
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name} cannot be loaded as an image-text-to-text model ({problem}).") from None
    if getattr(processor, "chat_template", None) is None and getattr(processor.tokenizer, "chat_template", None) is None:
        raise UserError(
            f"{name} has no chat template, so it cannot be asked; choose a model that was trained to follow instructions."
        )
    processor.tokenizer.padding_side = "left"  # answers begin where questions end
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return model.to(place).eval(), processor


def _ends(model: PreTrainedModel, processor: ProcessorMixin) -> set[int]:
    """The tokens that end an answer."""
    own = model.generation_config.eos_token_id
    found = set(own) if isinstance(own, list | tuple) else {own}
    return {token for token in found | {processor.tokenizer.eos_token_id} if token is not None}

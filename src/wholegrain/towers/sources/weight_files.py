"""``ViT-B-32:/path/to/weights``: a file of weights for one of open_clip's architectures, read without network.

A file says nothing of its activation. OpenAI's own are known by three numbers that they carry (and by being TorchScript archives), and get
their quick GELU by whatever name the model is called; for all others the name decides, such as ``ViT-B-32-quickgelu``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.towers.sources.torchscript import is_torchscript, read_torchscript
from wholegrain.towers.tensor_files import read_weights, size_of

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")


def read_clip_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The weights of a file in float32, and whether they are OpenAI's own.

    Training checkpoints of open_clip (``state_dict`` inside, ``module.`` before names) are read, too.
    """
    size_of(path, "give the file of a model's weights")
    read: dict[str, object] = dict(read_torchscript(path)) if is_torchscript(path) else read_weights(path)
    state = read.get("state_dict", read)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no weights; give a state dict of a CLIP model")
    openai = all(mark in state for mark in OPENAI_MARKS)
    plain = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if key not in OPENAI_MARKS and not key.endswith("attn_mask") and isinstance(value, Tensor)
    }
    return {key: value.float() if value.is_floating_point() else value for key, value in plain.items()}, openai


def load_clip_weights(clip: CustomTextCLIP, state: dict[str, Tensor], path: Path) -> None:
    """Puts weights into a model of open_clip, strictly; OpenAI's layout and others that open_clip knows are converted."""
    try:
        state = convert_state_dict(clip, state)
        if "positional_embedding" in state:
            state = convert_to_custom_text_state_dict(state)
        state["logit_scale"] = state["logit_scale"].reshape(clip.logit_scale.shape)
        if clip.logit_bias is not None:
            state["logit_bias"] = state.get("logit_bias", torch.zeros(())).reshape(clip.logit_bias.shape)
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
        clip.load_state_dict(state)
    except (RuntimeError, KeyError, AssertionError, AttributeError, TypeError, IndexError, ValueError, ZeroDivisionError) as error:
        detail = str(error).splitlines()[-1].strip()[:300] if str(error) else type(error).__name__
        raise UserError(f"the weights in {path} do not fit the model ({detail}); check its name") from error

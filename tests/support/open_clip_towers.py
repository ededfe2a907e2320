"""Small models of open_clip with their settings."""

import torch
from open_clip.model import CustomTextCLIP

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 90, "width": 24, "heads": 2, "layers": 2}


def clip_and_config(vision=None, text=None, **more):
    config = {"embed_dim": 16, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**(text or TEXT)}, **more}
    torch.manual_seed(0)
    return CustomTextCLIP(**config).eval(), config

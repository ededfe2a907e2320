"""Small models of each kind, and a folder as open_clip writes it."""

import json

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from wholegrain.data.preprocess import Preprocess
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers import Model
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.sources.small import SmallConfig, small_model, small_text_tower
from wholegrain.towers.sources.timm import timm_tower

CONFIG = SmallConfig(image_size=32, image_width=32, image_layers=2, heads=2, text_width=24, text_layers=1, context=12, width=16)
TOKENIZER = train_tokenizer(["a red cup left of a blue hat"], 50, 12)
TEXTS = ["a red cup", "a blue hat left of a cup"]
ALL = frozenset({"patches", "tokens"})
SPEC = "small:" + ",".join(f"{k}={v}" for k, v in CONFIG.__dict__.items())


def small() -> Model:
    torch.manual_seed(0)
    return small_model(CONFIG, TOKENIZER).eval()


def outputs(model: Model) -> list[torch.Tensor]:
    size = model.preprocess.size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    tokens = model.tokenizer.encode(TEXTS)
    with torch.no_grad():
        image, text, scale, bias = model.eval()(pixels, tokens.tokens_NL, tokens.length_N, ALL)
    found = [image.pooled_BD, image.branches_BHD, image.patches_BPD, text.pooled_ND, text.tokens_NLD, scale, bias]
    return [x for x in found if x is not None]


def assert_same(a: Model, b: Model) -> None:
    pairs = list(zip(outputs(a), outputs(b), strict=True))
    assert all(torch.equal(x, y) for x, y in pairs)
    assert [n for n, p in a.named_parameters() if p.requires_grad] == [n for n, p in b.named_parameters() if p.requires_grad]


def open_clip_folder(folder, **text):
    """A folder as open_clip writes it, of a tiny model with one-matrix text weights in the old layout."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text_cfg = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, **text}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text_cfg, "quick_gelu": True}
    torch.manual_seed(0)
    clip = CLIP(**config).eval()
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return clip


def with_timm(name: str, **kwargs) -> Model:
    torch.manual_seed(0)
    image, text = timm_tower(name, 64, kwargs), small_text_tower(CONFIG, TOKENIZER.vocab_size)
    image.tune("last:1")
    return Model(image, text, PlainHead(Widths(image.width, text.width, 8)), Preprocess(64, "squash"), TOKENIZER)

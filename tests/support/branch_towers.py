"""Small towers that branches are added to."""

import torch
from open_clip.model import CustomTextCLIP
from timm.models.vision_transformer import VisionTransformer

from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.timm import TimmImageTower

PATCHES = frozenset({"patches"})
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def timm_vit(pool="token", depth=2, **more):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 0}
    net = VisionTransformer(depth=depth, global_pool=pool, **sizes, **more)
    with torch.no_grad():  # timm's start is so flat that attention hardly matters
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return TimmImageTower(net, {"kind": "timm"}).eval()


def open_clip_vit(pool="tok", depth=2):
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": depth, "head_width": 16, "pool_type": pool}
    config = {
        "embed_dim": 16,
        "vision_cfg": vision,
        "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
    }
    return split_open_clip(CustomTextCLIP(**config), config, 0)[0].eval()


TOKEN = {"timm": timm_vit, "open_clip": open_clip_vit}
TOKEN["timm-registers"] = lambda **settings: timm_vit(reg_tokens=2, no_embed_class=True, **settings)
MEAN = {"timm": lambda: timm_vit("avg", class_token=False, fc_norm=False), "open_clip": lambda: open_clip_vit("avg")}
MEAN["timm-fc-norm"] = lambda: timm_vit("avg")

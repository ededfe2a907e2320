"""Models of open_clip as two towers and a head.

Everything that open_clip learns after its towers' last LayerNorm (the two projections) moves into :class:`PlainHead`, so towers
give features of their own width. The text tower's positions and mask are cut to the rows at hand: open_clip's own ``encode_text``
needs all 77 positions. That is only right for towers whose result does not depend on padding (causal, pooled at the end token);
SigLIP and CLIPA see their padding and pool the last position. :func:`keeps_true_length` is run on each text tower when it is made
and decides.

Features equal open_clip's to rounding. Patches are tokens after ``ln_post``. Not read: models with a decoder or of sounds, and text
towers from Hugging Face inside open_clip (a pair in TOML serves those). Releases 3.2 to 4 of open_clip are read.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP, _build_text_tower, _build_vision_tower
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.towers.base import (
    NOTHING,
    Config,
    ImageTower,
    RawImage,
    RawText,
    TextTower,
    keep_patches,
    keeps_true_length,
    real_tokens,
)
from wholegrain.towers.blocks import Dense, Packed, replace_blocks
from wholegrain.towers.branch_tokens import BranchTokens
from wholegrain.towers.heads.base import Head, PlainHead, Widths
from wholegrain.towers.mlp_branches import split_blocks
from wholegrain.towers.sources.timm import TimmImageTower

Projection: TypeAlias = nn.Linear | nn.Identity | nn.Parameter | None


class OpenClipImageTower(ImageTower):
    """open_clip's own Vision Transformer, without its projection."""

    fixed_size = True

    def __init__(self, visual: VisionTransformer, config: Config) -> None:
        super().__init__()
        if visual.attn_pool is not None:
            raise UserError("image towers with open_clip's attentional pooling (CoCa) cannot be used; choose another model")
        visual.proj = None
        self.net = visual
        self._config = config
        self.width = int(visual.class_embedding.shape[0])
        self.can_branch = isinstance(visual.patch_dropout, nn.Identity)
        self._replaced = replace_blocks(visual.transformer)

    @property
    def droppable(self) -> int:
        """All patches of an ordinary tower."""
        plain = self.branches is None and self.mlp_branches is None and isinstance(self.net.patch_dropout, nn.Identity)
        return int(self.net.grid_size[0] * self.net.grid_size[1]) if plain else 0

    @property
    def pools_patches(self) -> bool:
        """Not with a class token."""
        return super().pools_patches and self.net.pool_type == "avg"

    def forward(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """See :class:`ImageTower`."""
        net, branches, H = self.net, self.branches, 0
        if branches is None:
            x = net._embeds(pixels_BCHW)
            x = self._blocks(x if kept_BK is None else keep_patches(x, kept_BK, 1), None, needs)
        else:
            H = branches.count
            x = self._blocks(self._embed_with_branches(branches, pixels_BCHW), branches.mask_SS, needs)
        if not net.final_ln_after_pool:
            x = net.ln_post(x)
        own, x = x[:, :H], x[:, H:]
        mean_BV = pooled_BV = x[:, 1:].mean(1) if net.pool_type == "avg" else None
        if pooled_BV is None and branches is None:
            pooled_BV = x[:, 0]
        if pooled_BV is not None and net.final_ln_after_pool:
            mean_BV = pooled_BV = net.ln_post(pooled_BV)
        classes = None
        if branches is not None:
            classes = branches.read(net.ln_post(own) if net.final_ln_after_pool else own, mean_BV)
            pooled_BV = classes.mean(1) if pooled_BV is None else pooled_BV
        assert pooled_BV is not None
        streams = self.mlp_branches
        if streams is not None:
            classes = streams.split(pooled_BV)
            pooled_BV = classes.mean(1)
        if "patches" not in needs:
            return RawImage(pooled_BV, None, classes)
        patches = x if branches is not None and branches.replaces_class else x[:, 1:]
        patches = net.ln_post(patches) if net.final_ln_after_pool else patches
        grid = (int(net.grid_size[0]), int(net.grid_size[1]))
        return RawImage(pooled_BV, patches if streams is None else streams.split(patches).mean(1), classes, grid)

    def _blocks(self, x_BSV: Tensor, mask_SS: Tensor | None, needs: frozenset[str]) -> Tensor:
        """Through all blocks; only the class tokens if nobody reads the others."""
        net = self.net
        if not self._replaced:
            return net.transformer(x_BSV, attn_mask=mask_SS)
        *first, last = net.transformer.resblocks
        layout = Dense(mask_SS, 1 if self.branches is None else self.branches.count)
        for block in first:
            x_BSV = block(x_BSV, layout)
        return last(x_BSV, layout, net.pool_type == "tok" and "patches" not in needs)

    def _embed_with_branches(self, branches: BranchTokens, pixels_BCHW: Tensor) -> Tensor:
        net = self.net
        x = net.conv1(pixels_BCHW).flatten(2).transpose(1, 2)
        positions = net.positional_embedding.to(x.dtype)
        x = x + positions[1:]
        if not branches.replaces_class:
            own = (net.class_embedding.to(x.dtype) + positions[0]).expand(len(x), 1, -1)
            x = torch.cat([own, x], dim=1)
        return net.ln_pre(branches.prepend(x))

    def resize(self, image_size: int) -> None:
        """With positions interpolated bicubically; the class token keeps its own."""
        net, patch = self.net, self.net.conv1.kernel_size[0]
        if image_size % patch:
            raise UserError(f"a picture of {image_size} pixels does not fall into patches of {patch}; use a multiple of it")
        side = image_size // patch
        table_1SV = resample_abs_pos_embed(net.positional_embedding.detach()[None], [side, side], num_prefix_tokens=1)
        net.positional_embedding = nn.Parameter(table_1SV[0].clone())
        net.image_size, net.grid_size = (image_size, image_size), (side, side)
        self._config = deepcopy(self._config)
        self._config["model"]["vision_cfg"]["image_size"] = image_size

    def add_branches(self, count: int, *, patches_see: str = "auto", legacy_plus_one: bool = False, noise: float = 0.02) -> None:
        """See :class:`ImageTower`."""
        if not self.can_branch or self.branches is not None or self.mlp_branches is not None:
            raise UserError(
                "this image tower cannot take class tokens (it drops patches, or has branches); use source = 'readout'"
            )
        net, start_V = self.net, None
        rest = net.grid_size[0] * net.grid_size[1]
        if net.pool_type == "tok":
            start_V = (net.class_embedding + net.positional_embedding[0]).detach()
            self.retired = ("net.class_embedding",)
        else:
            rest += 1
        branches = BranchTokens(count, rest, start_V, self.width, patches_see, legacy_plus_one, noise)
        self.branches = branches.to(net.class_embedding.device)
        self.tune(self.tuned)

    def add_mlp_branches(self, count: int, blocks: int = 3) -> None:
        """See :class:`ImageTower`."""
        if self.branches is not None or self.mlp_branches is not None:
            raise UserError("this image tower cannot be split into branches (it has some); use source = 'readout'")
        self.mlp_branches = split_blocks(self.net.transformer.resblocks, count, blocks)
        self.tune(self.tuned)

    def stages(self) -> list[nn.Module]:
        """The blocks; the last LayerNorm and branch tokens belong to the last."""
        blocks = self.net.transformer.resblocks
        tail = [blocks[-1], self.net.ln_post, *([self.branches] if self.branches is not None else [])]
        return [*blocks[:-1], nn.ModuleList(tail)]

    def config(self) -> Config:
        """JSON-able; enough for :func:`wholegrain.towers.io.build_image_tower`."""
        return {**super().config(), **self.branch_config()}


class OpenClipPooledTower(ImageTower):
    """open_clip image towers with their own pooling and projection: ResNets, attention-pooled or MLP-headed timm models.

    One vector, no patches. BatchNorm stays in eval mode.
    """

    def __init__(self, visual: nn.Module, width: int, config: Config) -> None:
        super().__init__()
        self.net = visual
        self.width = width
        self._config = config
        self.fixed_batchnorm = True

    def forward(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """Pooled vectors; refuses patches."""
        if "patches" in needs:
            raise UserError("this image tower has no patches in the shared space; choose a Vision Transformer for this recipe")
        return RawImage(self.net(pixels_BCHW))

    def stages(self) -> list[nn.Module]:
        """One stage: all or nothing."""
        return [self.net]

    def transformer_blocks(self) -> list[nn.Module]:
        """None."""
        return []


class OpenClipTextTower(TextTower):
    """open_clip's text transformer, without its projection.

    Args:
        net: the transformer.
        config: what builds it again.
        pad_id: what fills rows up to the context, for towers that look at padding.
        true_length: ``None`` runs the parity test.
    """

    def __init__(self, net: TextTransformer, config: Config, pad_id: int = 0, true_length: bool | None = None) -> None:
        super().__init__()
        if net.cls_emb is not None:
            raise UserError("text towers with an appended class token (CoCa) cannot be used; choose another model")
        net.text_projection = None
        self.net = net
        self._config = config
        self.pad_id = pad_id
        self.width, self.context_length = int(net.width), int(net.context_length)
        self.true_length, self._replaced = bool(true_length), False
        if true_length is None:
            end_id = net.eos_id if net.pool_type == "eos" else net.vocab_size - 1
            self.true_length = keeps_true_length(self, end_id, pad_id)
        ends = net.attn_mask is not None and net.pool_type in ("argmax", "eos")  # causal, read at the end
        self._replaced = self.true_length and ends and replace_blocks(net.transformer)

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """See :class:`TextTower`."""
        net, length = self.net, tokens_NL.shape[1]
        mask_NL = real_tokens(length_N, length)
        if self._replaced:
            return self._packed(tokens_NL, length_N, needs)
        if not self.true_length:
            tokens_NL = nn.functional.pad(tokens_NL, (0, self.context_length - length), value=self.pad_id)
        L = tokens_NL.shape[1]
        dtype = net.transformer.get_cast_dtype()
        x = net.token_embedding(tokens_NL).to(dtype) + net.positional_embedding[:L].to(dtype)
        x = net.transformer(x, attn_mask=None if net.attn_mask is None else net.attn_mask[:L, :L])
        x = net.ln_final(x)
        pooled = text_global_pool(x, tokens_NL, pool_type=net.pool_type, eos_token_id=net.eos_id)
        return RawText(pooled, x[:, :length] if "tokens" in needs else None, mask_NL)

    def _packed(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str]) -> RawText:
        """The same without padding; only the ends in the last block if nobody reads the other tokens."""
        net, packed, pooled_only = self.net, Packed.of(tokens_NL, length_N), "tokens" not in needs
        dtype = net.transformer.get_cast_dtype()
        tokens_T = tokens_NL.flatten().index_select(0, packed.cell_T)
        positions_TV = nn.functional.embedding(packed.cell_T % tokens_NL.shape[1], net.positional_embedding)
        x = net.token_embedding(tokens_T).to(dtype) + positions_TV.to(dtype)
        *first, last = net.transformer.resblocks
        for block in first:
            x = block(x, packed)
        x = net.ln_final(last(x, packed, pooled_only))
        if pooled_only:
            return RawText(x, None, packed.real_NL)
        return RawText(packed.pooled(x), packed.pad(x).masked_fill(~packed.real_NL[..., None], 0.0), packed.real_NL)

    def set_context(self, context: int, resample: Callable[[Tensor], Tensor]) -> None:
        """Another table of positions, and its mask."""
        net = self.net
        net.positional_embedding = nn.Parameter(resample(net.positional_embedding))
        self.context_length = net.context_length = net.num_pos = context
        if net.attn_mask is not None:
            net.register_buffer("attn_mask", net.build_causal_mask().to(net.positional_embedding.device), persistent=False)
        self._config = deepcopy(self._config)
        self._config["model"]["text_cfg"]["context_length"] = context

    def stages(self) -> list[nn.Module]:
        """The blocks; the last LayerNorm belongs to the last."""
        blocks = self.net.transformer.resblocks
        return [*blocks[:-1], nn.ModuleList([blocks[-1], self.net.ln_final])]

    def config(self) -> Config:
        """JSON-able; enough for :func:`wholegrain.towers.io.build_text_tower`."""
        return {**super().config(), "pad_id": self.pad_id, "true_length": self.true_length}


def _linear_of(projection: Projection) -> tuple[str, dict[str, Tensor]]:
    """The form of a projection and its weights as those of ``nn.Linear``."""
    if projection is None or isinstance(projection, nn.Identity):
        return "identity", {}
    if isinstance(projection, nn.Linear):
        form = "linear" if projection.bias is None else "linear_bias"
        return form, {k: v.detach().clone() for k, v in projection.state_dict().items()}
    return "linear", {"weight": projection.detach().T.clone()}


def _wrap_image(visual: nn.Module, config: Config) -> tuple[ImageTower, Projection]:
    """A tower and the projection that stood behind it."""
    if isinstance(visual, VisionTransformer):
        projection = visual.proj
        return OpenClipImageTower(visual, config), projection
    if isinstance(visual, TimmModel) and set(dict(visual.head.named_children())) <= {"drop", "proj"}:
        trunk: Any = visual.trunk
        projection = getattr(visual.head, "proj", None) or trunk.get_classifier()
        if getattr(visual.head, "proj", None) is None and isinstance(projection, nn.Linear):
            trunk.reset_classifier(0, trunk.global_pool if isinstance(getattr(trunk, "global_pool", None), str) else None)
        return TimmImageTower(trunk, config), projection
    return OpenClipPooledTower(visual, int(config["model"]["embed_dim"]), config), None


def split_open_clip(clip: CustomTextCLIP, model_cfg: Config, pad_id: int) -> tuple[ImageTower, OpenClipTextTower, Head]:
    """Takes an open_clip model (made with ``force_custom_text=True``) apart: image tower, text tower, head; nothing is copied."""
    assert isinstance(clip.text, TextTransformer), "the loader refuses others"
    config = {"kind": "open_clip", "model": _plain_config(model_cfg)}
    image_tower, image_projection = _wrap_image(clip.visual, config)
    text_projection = clip.text.text_projection
    text_tower = OpenClipTextTower(clip.text, config, pad_id)
    (image_form, image_state), (text_form, text_state) = _linear_of(image_projection), _linear_of(text_projection)
    head = PlainHead(Widths(image_tower.width, text_tower.width, int(model_cfg["embed_dim"]), image_form, text_form))
    head.image.load_state_dict(image_state)
    head.text.load_state_dict(text_state)
    return image_tower, text_tower, head


def _plain_config(model_cfg: Config) -> Config:
    vision = {**model_cfg["vision_cfg"]}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False  # weights come with the model, never from a download
    return {
        "embed_dim": model_cfg["embed_dim"],
        "quick_gelu": bool(model_cfg.get("quick_gelu", False)),
        "vision_cfg": vision,
        "text_cfg": {**model_cfg["text_cfg"]},
    }


def vision_net(model_cfg: Config) -> nn.Module:
    """open_clip's image network of a configuration, random weights."""
    vision_cfg = CLIPVisionCfg(**{**model_cfg["vision_cfg"], "timm_model_pretrained": False})
    return _build_vision_tower(model_cfg["embed_dim"], vision_cfg, model_cfg.get("quick_gelu", False))


def text_net(model_cfg: Config) -> nn.Module:
    """open_clip's text network of a configuration, random weights."""
    text_cfg = CLIPTextCfg(**model_cfg["text_cfg"])
    return _build_text_tower(model_cfg["embed_dim"], text_cfg, model_cfg.get("quick_gelu", False))


def build_open_clip_image(config: Config) -> ImageTower:
    """The image tower of a saved configuration, random weights."""
    tower = _wrap_image(vision_net(config["model"]), config)[0]
    if tower.fixed_size and isinstance(tower, TimmImageTower):
        tower.resize(config["model"]["vision_cfg"]["image_size"])  # open_clip builds timm's networks at timm's size
    return tower


def build_open_clip_text(config: Config, pad_id: int, true_length: bool) -> OpenClipTextTower:
    """The text tower of a saved configuration, random weights."""
    if "hf_model_name" in config["model"]["text_cfg"]:
        raise UserError("its text tower is one of Hugging Face inside open_clip, which cannot be used here; choose another model")
    net = text_net(config["model"])
    assert isinstance(net, TextTransformer)
    return OpenClipTextTower(net, config, pad_id, true_length)

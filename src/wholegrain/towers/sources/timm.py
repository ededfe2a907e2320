"""Any timm model as an image tower: the cells of a CNN's last feature map, or a Vision Transformer's tokens, are the patches.

A CNN's patch is what the network's own pooling head makes of that one cell: for heads that only average, the mean of the patches
is then the pooled vector, and heads with layers after the pooling (MobileNetV3, ConvNeXt) give patches in the same space as the
pooled vector. A Vision Transformer's patches have passed its last LayerNorm, also where timm normalises after pooling
(``fc_norm``).
"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.models import group_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.suggest import nearest
from wholegrain.towers.attention_kernel import attention_kernel
from wholegrain.towers.base import NOTHING, Config, ImageTower, RawImage, keep_patches
from wholegrain.towers.bounds import build_on_meta, check_numbers, memory_limit, without_code
from wholegrain.towers.branch_tokens import BranchTokens
from wholegrain.towers.mlp_branches import split_blocks
from wholegrain.towers.tensor_files import read_weights

Net = TypeVar("Net", bound=nn.Module)


class TimmImageTower(ImageTower):
    """A timm network without its classifier.

    Args:
        net: made with ``num_classes=0``.
        config: what :meth:`config` returns (``kind`` and what its builder needs), without tuning and branches.
        fixed_batchnorm: BatchNorm stays in eval mode during training.
    """

    def __init__(self, net: nn.Module, config: Config, fixed_batchnorm: bool = False) -> None:
        super().__init__()
        self.net: Any = net
        self.fixed_batchnorm = fixed_batchnorm
        self.near_SS: Tensor | None  # an additive attention mask of towers whose patches do not see everything
        self.register_buffer("near_SS", None, persistent=False)
        self._config = config
        self.is_vit = self.fixed_size = isinstance(net, VisionTransformer)
        self.can_branch = self.is_vit and isinstance(self.net.patch_drop, nn.Identity)
        self.width = int(getattr(net, "head_hidden_size", None) or self.net.num_features)

    @property
    def droppable(self) -> int:
        """All patches of an ordinary Vision Transformer."""
        plain = self.can_branch and self.branches is None and self.mlp_branches is None and self.near_SS is None
        return int(self.net.patch_embed.num_patches) if plain and not isinstance(self.net.norm, nn.Sequential) else 0

    @property
    def pools_patches(self) -> bool:
        """Not of a Vision Transformer with a class token or attention pooling."""
        return super().pools_patches and (not self.is_vit or self.net.global_pool not in ("token", "map"))

    def forward(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """See :class:`ImageTower`."""
        if self.is_vit:
            with attention_kernel(pixels_BCHW.device, self.net.patch_embed.num_patches):
                return self._vit(pixels_BCHW, needs, kept_BK)
        features = self.net.forward_features(pixels_BCHW)
        pooled_BV = self.net.forward_head(features, pre_logits=True)
        if "patches" not in needs:
            return RawImage(pooled_BV)
        if features.ndim == 3:
            return self._sequence(features, pooled_BV)
        if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
            cells, grid = features.flatten(0, 2)[:, None, None], features.shape[1:3]
        else:
            cells, grid = features.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None], features.shape[2:]
        patches = self.net.forward_head(cells, pre_logits=True)
        return RawImage(pooled_BV, patches.view(len(pooled_BV), -1, self.width), None, (int(grid[0]), int(grid[1])))

    def _sequence(self, tokens_BSV: Tensor, pooled_BV: Tensor) -> RawImage:
        # transformers of timm that are no VisionTransformer (Eva, BEiT, …)
        grid = getattr(getattr(self.net, "patch_embed", None), "grid_size", None)
        if grid is None:
            kind = type(self.net).__name__
            raise UserError(f"this image tower ({kind}) says nothing of where its patches are; choose another for this recipe")
        patches = tokens_BSV[:, getattr(self.net, "num_prefix_tokens", 0) :]
        norm = getattr(self.net, "fc_norm", None)
        return RawImage(pooled_BV, patches if norm is None else norm(patches), None, grid)

    def _from_kept(self, pixels_BCHW: Tensor, kept_BK: Tensor) -> Tensor:
        """timm's ``forward_features`` on some patches."""
        x = self.net._pos_embed(self.net.patch_embed(pixels_BCHW))
        x = self.net.norm_pre(keep_patches(x, kept_BK, self.net.num_prefix_tokens))
        for block in self.net.blocks:
            x = block(x)
        return self.net.norm(x)

    def _vit(self, pixels_BCHW: Tensor, needs: frozenset[str], kept_BK: Tensor | None = None) -> RawImage:
        net, branches = self.net, self.branches
        grid = tuple(net.patch_embed.grid_size)
        if branches is None:
            whole = kept_BK is None
            x = net.forward_features(pixels_BCHW, attn_mask=self.near_SS) if whole else self._from_kept(pixels_BCHW, kept_BK)
            pooled_BV, classes, first = net.forward_head(x, pre_logits=True), None, net.num_prefix_tokens
            if self.mlp_branches is not None:
                classes = self.mlp_branches.split(pooled_BV)
                pooled_BV = classes.mean(1)
        else:
            x = net._pos_embed(net.patch_embed(pixels_BCHW))  # with timm's own class token and registers in front
            x = net.norm_pre(branches.prepend(x[:, 1:] if branches.replaces_class else x))
            mask_SS = branches.combined_mask(self.near_SS)
            for block in net.blocks:
                x = block(x, attn_mask=mask_SS)
            x = net.norm(x)
            own, x = net.fc_norm(x[:, : branches.count]), x[:, branches.count :]
            mean_BV = None if branches.replaces_class else net.forward_head(x, pre_logits=True)
            classes = branches.read(own, mean_BV)
            pooled_BV = classes.mean(1) if mean_BV is None else mean_BV
            first = net.num_prefix_tokens - int(branches.replaces_class)
        patches = net.fc_norm(x[:, first:]) if "patches" in needs else None
        if self.mlp_branches is not None and patches is not None:
            patches = self.mlp_branches.split(patches).mean(1)
        return RawImage(pooled_BV, patches, classes, grid if patches is not None else None)

    def resize(self, image_size: int) -> None:
        """As timm does it; networks that are no Vision Transformer take any size, and are refused."""
        if not self.is_vit:
            super().resize(image_size)
        if self.net.patch_embed.img_size == (image_size, image_size):
            return
        self.net.set_input_size(img_size=(image_size, image_size))
        self._config = deepcopy(self._config)
        place = self._config["model"]["vision_cfg"] if self._config["kind"] == "open_clip" else self._config
        place["image_size"] = image_size

    def add_branches(self, count: int, *, patches_see: str = "auto", legacy_plus_one: bool = False, noise: float = 0.02) -> None:
        """See :class:`ImageTower`."""
        if not self.can_branch or self.branches is not None or self.mlp_branches is not None:
            raise UserError(
                "this image tower cannot take class tokens (no Vision Transformer, or has some); use source = 'readout'"
            )
        net, start_V = self.net, None
        rest = net.patch_embed.num_patches + net.num_prefix_tokens
        if net.global_pool == "token":
            start_V = net.cls_token[0, 0].detach().clone()
            if net.pos_embed is not None and not net.no_embed_class:
                start_V += net.pos_embed[0, 0].detach()
            rest -= 1
            self.retired = ("net.cls_token",)
        branches = BranchTokens(count, rest, start_V, net.embed_dim, patches_see, legacy_plus_one, noise, self.width)
        self.branches = branches.to(next(net.parameters()).device)
        self.tune(self.tuned)

    def add_mlp_branches(self, count: int, blocks: int = 3) -> None:
        """See :class:`ImageTower`."""
        if not self.is_vit or self.branches is not None or self.mlp_branches is not None:
            raise UserError(
                "this image tower cannot be split into branches (no Vision Transformer, or has some); use source = 'readout'"
            )
        self.mlp_branches = split_blocks(self.net.blocks, count, blocks)
        self.tune(self.tuned)

    def stages(self) -> list[nn.Module]:
        """A transformer's blocks, or timm's own layer groups; final norms and branch tokens belong to the last."""
        if self.is_vit:
            tail = [self.net.norm, self.net.fc_norm, self.net.attn_pool, self.branches]
            last = nn.ModuleList([self.net.blocks[-1], *(m for m in tail if m is not None)])
            return [*self.net.blocks[:-1], last]
        groups = group_modules(self.net, self.net.group_matcher())
        by_id = {key: [self.net.get_submodule(name) for name in names] for key, names in groups.items()}
        return [nn.ModuleList(by_id[key]) for key in sorted(by_id)]

    def transformer_blocks(self) -> list[nn.Module]:
        """None of a network that is no Vision Transformer."""
        return super().transformer_blocks() if self.is_vit else []

    def config(self) -> Config:
        """JSON-able; enough for :func:`wholegrain.towers.io.build_image_tower`."""
        return {**super().config(), "fixed_batchnorm": self.fixed_batchnorm, **self.branch_config()}


def timm_tower(
    name: str,
    image_size: int,
    kwargs: Config | None = None,
    *,
    weights: str | Path | None = None,
    fixed_batchnorm: bool = True,
) -> TimmImageTower:
    """A timm model by name.

    Args:
        name: of timm, such as ``mobilenetv2_100`` or ``vit_small_patch16_224``.
        image_size: side of the square input; Vision Transformers resample their position table to it.
        kwargs: passed to ``timm.create_model`` (``pad_type="same"`` for networks that come from TensorFlow).
        weights: a state dict in safetensors, or one that ``torch.load(weights_only=True)`` reads; classifier weights in it are
            left out, everything else must fit exactly. ``None``: random weights. Nothing is downloaded.
        fixed_batchnorm: see :class:`TimmImageTower`.

    Raises:
        UserError: an unknown name (with close ones), a keyword that the model refuses, weights that do not fit.
    """
    if name not in timm.list_models():
        near = nearest(name, timm.list_models(), 3)
        raise UserError(f"timm has no model {name!r}; {'did you mean ' + ', '.join(near) if near else 'see timm.list_models()'}")
    where, advice = f"timm's {name} with the kwargs {kwargs or {}}", "correct them"
    checked = without_code(dict(kwargs or {}), where)
    check_numbers({**checked, "image_size": image_size}, where, advice)

    def build() -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=0, **checked)

    def trial() -> None:
        net = _sized(build(), image_size).eval()
        if checked:  # some keywords are read only when the network runs
            with suppress(NotImplementedError):  # a layer that has no form without values
                net(torch.zeros(1, 3, image_size, image_size))

    build_on_meta(trial, memory_limit(), where, advice)
    net = build()
    if weights is not None:
        load_timm_weights(net, Path(weights))
    _sized(net, image_size)
    config = {"kind": "timm", "name": name, "image_size": image_size, "kwargs": dict(kwargs or {})}
    return TimmImageTower(net, config, fixed_batchnorm)


def _sized(net: Net, image_size: int) -> Net:
    if hasattr(net, "set_input_size") and isinstance(net, VisionTransformer):
        net.set_input_size(img_size=(image_size, image_size))
    return net


def load_timm_weights(net: Any, path: Path) -> None:
    """Strict, but for the classifier that the tower does not have."""
    classifier = net.default_cfg.get("classifier") or ()
    prefixes = tuple(f"{c}." for c in ((classifier,) if isinstance(classifier, str) else classifier))
    state = {key: value for key, value in read_weights(path).items() if not (prefixes and key.startswith(prefixes))}
    try:
        net.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        detail = (str(error).splitlines() or [""])[-1].strip()[:300]
        raise UserError(f"the weights in {path} do not fit the image tower ({detail}); check its name and kwargs") from error

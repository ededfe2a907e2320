"""To transformers: a folder that ``AutoModel``, ``AutoTokenizer`` and ``AutoImageProcessor`` load, ``CLIPModel`` or ``SiglipModel``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from timm.layers.activations import GELUTanh, QuickGELU
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.towers.base import Config
from wholegrain.towers.export.approximation import BEYOND, special_part, tower_name
from wholegrain.towers.export.comparison import TEXTS, Sample, clip_distances
from wholegrain.towers.export.tokenizer_files import write_tokenizer
from wholegrain.towers.model import Model
from wholegrain.towers.sources import weight_names
from wholegrain.towers.sources.hf_library import quiet, transformers_for
from wholegrain.towers.sources.open_clip import OpenClipImageTower, OpenClipTextTower
from wholegrain.towers.sources.timm import TimmImageTower
from wholegrain.towers.tensor_files import uncompiled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "norm_kwargs", "act_kwargs", "patch_dropout"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "act_kwargs", "pool_type"}
_TEXT |= {"eos_id", "pad_id", "hf_tokenizer_name", "tokenizer_kwargs", "no_causal_mask", "proj_bias", "proj_type"}

PADDED_SENTENCES = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"} for side in ("text", "image")
        },
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"text": {"padding": "max_length"}},
    },
}
"""Files by which sentence-transformers pads texts to the context, as SigLIP was trained; of itself it pads to the longest text."""


def write_transformers(model: Model, folder: Path) -> None:
    """Writes the folder; which class it is follows from the towers.

    Raises:
        UserError: transformers is missing, or a part that neither class has, by name.
    """
    made = transformers_model(model)
    with quiet(transformers_for("exporting to transformers")):
        made.save_pretrained(folder)
    write_processing(model, folder)
    if not _is_clip(model):
        for name, settings in PADDED_SENTENCES.items():
            (folder / name).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def transformers_model(model: Model) -> PreTrainedModel:
    """The model as transformers' ``CLIPModel`` or ``SiglipModel``, on the CPU, in float32 and in eval mode.

    Raises:
        UserError: transformers is missing, or a part that neither class has, by name.
    """
    transformers = transformers_for("exporting to transformers")
    if (part := special_part(model)) is not None:
        raise UserError(f"transformers has no place for {part}; export to onnx or wholegrain, or give --approximate")
    image, text = model.image_tower, model.text_tower
    if not isinstance(text, OpenClipTextTower):
        raise UserError(
            f"transformers' CLIP and SigLIP have no text tower like this one ({tower_name(text)}); {BEYOND}"
        )
    _same_or_refuse(text.config()["model"]["text_cfg"], CLIPTextCfg, _TEXT, "text")
    if isinstance(image, OpenClipImageTower):
        return _clip(transformers, model, image, text)
    if isinstance(image, TimmImageTower) and _is_siglip(image):
        return _siglip(transformers, model, image, text)
    kind = type(image).__name__
    raise UserError(f"transformers' CLIP and SigLIP have no image tower like this one ({kind}); export to open_clip or onnx")


def write_processing(model: Model, folder: Path) -> None:
    """Writes the files of tokeniser and preprocessing, for a model that :func:`transformers_model` takes."""
    clip = _is_clip(model)
    write_tokenizer(model.tokenizer, folder, masked=clip)
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor(model, clip), indent=2), encoding="utf-8")


def transformers_distances(model: Model, folder: Path) -> dict[str, float]:
    """How far apart the model and what transformers makes of the folder are."""
    return distances_of(model, their_model(folder), folder)


def their_model(folder: Path) -> PreTrainedModel:
    """What transformers makes of a folder."""
    transformers = transformers_for("exporting to transformers")
    with quiet(transformers):
        return transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()


def their_rows(model: Model, folder: Path, texts: Sequence[str], *, padding: str = "max_length") -> Mapping[str, Tensor]:
    """Rows of texts by the folder's tokeniser, as transformers' models take them: ``input_ids`` ``[N, L]`` and, of a CLIP, ``attention_mask``.

    Args:
        padding: ``max_length`` to the context, ``longest`` to the longest of them.
    """
    transformers = transformers_for("exporting to transformers")
    with quiet(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer(list(texts), max_length=model.text_tower.context_length, padding=padding, truncation=True, return_tensors="pt")


@torch.no_grad()
def distances_of(model: Model, theirs: Any, folder: Path) -> dict[str, float]:
    """How far apart the model and transformers' are, with the folder's tokeniser."""
    sample = Sample.of(model)
    seen = theirs.get_image_features(pixel_values=model.preprocess.normalise(sample.pixels_BCHW))
    read = theirs.get_text_features(**their_rows(model, folder, TEXTS))
    return clip_distances(model, sample, _pooled(seen), _pooled(read), theirs)


def _is_clip(model: Model) -> bool:
    """``CLIPModel``, and not ``SiglipModel``."""
    return isinstance(model.image_tower, OpenClipImageTower)


def _pooled(output: Any) -> Tensor:
    # transformers 5 returns an object, 4 a tensor
    return output if isinstance(output, Tensor) else output.pooler_output


def _clip(transformers: ModuleType, model: Model, tower: OpenClipImageTower, text: OpenClipTextTower) -> PreTrainedModel:
    text_cfg = text.config()["model"]["text_cfg"]
    _same_or_refuse(tower.config()["model"]["vision_cfg"], CLIPVisionCfg, _VISION, "image")
    widths = model.head.widths
    for part, wrong in (
        ("a bias", model.bias is not None),
        ("this image projection", widths.image_projection != "linear"),
        ("this text projection", widths.text_projection != "linear"),
        ("a text tower without a causal mask", text_cfg.get("no_causal_mask", False)),
        (f"a text pooled by {text_cfg.get('pool_type')!r}", text_cfg.get("pool_type", "argmax") not in ("argmax", "eos")),
        ("the end token 2", text_cfg.get("pool_type") == "eos" and text_cfg.get("eos_id", 2) == 2),
    ):
        if wrong:
            raise UserError(f"transformers' CLIPModel has no place for {part}; export to open_clip or onnx")
    layers = len(tower.net.transformer.resblocks)
    config = transformers.CLIPConfig(
        projection_dim=widths.shared,
        text_config=_text_config(model, text) | {"projection_dim": widths.shared},
        vision_config=_clip_vision(tower, model.preprocess.size) | {"projection_dim": widths.shared},
    )
    made = transformers.CLIPModel(config)
    state = {**_prefixed(tower.net, weight_names.clip_image(layers), made), **_text_state(text, made)}
    state |= {"visual_projection.weight": model.head.image.get_parameter("weight"), "text_projection.weight": model.head.text.get_parameter("weight")}
    return _loaded(made, {**state, "logit_scale": model.log_scale})


def _clip_vision(tower: OpenClipImageTower, size: int) -> Config:
    own = tower.config()["model"]
    vision = CLIPVisionCfg(**own["vision_cfg"])
    layers = len(tower.net.transformer.resblocks)
    return {
        **_sizes(vision.width, layers, vision.width // vision.head_width, vision.mlp_ratio, vision.norm_kwargs, 1e-5),
        "image_size": size,
        "patch_size": vision.patch_size,
        "hidden_act": _act(own["quick_gelu"], vision.act_kwargs),
    }


def clip_vision_model(tower: OpenClipImageTower, size: int) -> PreTrainedModel:
    """An image tower alone as transformers' ``CLIPVisionModel``, on the CPU, in float32 and in eval mode.

    Args:
        size: of its pictures.

    Raises:
        UserError: transformers is missing, or a part that the class does not have.
    """
    transformers = transformers_for("exporting to transformers")
    if tower.branches is not None or tower.mlp_branches is not None:
        raise UserError("transformers' CLIPVisionModel has no place for branches; export to onnx or wholegrain")
    _same_or_refuse(tower.config()["model"]["vision_cfg"], CLIPVisionCfg, _VISION, "image")
    made = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_clip_vision(tower, size)))
    pairs = weight_names.clip_image(len(tower.net.transformer.resblocks))
    nested = hasattr(made, "vision_model")  # transformers 4 and early 5
    named = pairs if nested else [(ours, tuple(name.removeprefix("vision_model.") for name in theirs)) for ours, theirs in pairs]
    return _loaded(made, _prefixed(tower.net, named, made))


def _siglip(transformers: ModuleType, model: Model, tower: TimmImageTower, text: OpenClipTextTower) -> PreTrainedModel:
    net = tower.net
    text_cfg, widths = text.config()["model"]["text_cfg"], model.head.widths
    for part, wrong in (
        ("this image projection", widths.image_projection != "identity"),
        ("a text projection without a bias", widths.text_projection != "linear_bias"),
        ("a text tower with a causal mask", not text_cfg.get("no_causal_mask", False)),
        (f"a text pooled by {text_cfg.get('pool_type')!r}", text_cfg.get("pool_type") != "last"),
    ):
        if wrong:
            raise UserError(f"transformers' SiglipModel has no place for {part}; export to open_clip or onnx")
    block, layers = net.blocks[0], len(net.blocks)
    config = transformers.SiglipConfig(
        text_config=_text_config(model, text) | {"projection_size": widths.shared},
        vision_config={
            "hidden_size": net.embed_dim,
            "num_hidden_layers": layers,
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "layer_norm_eps": net.norm.eps,
            "image_size": model.preprocess.size,
            "patch_size": int(net.patch_embed.patch_size[0]),
            "hidden_act": _timm_act(block.mlp.act),
        },
    )
    made = transformers.SiglipModel(config)
    state = {**_prefixed(net, weight_names.siglip_image(layers), made), **_text_state(text, made)}
    state |= {f"text_model.head.{part}": getattr(model.head.text, part) for part in weight_names.PARTS}
    bias = torch.zeros(1) if model.bias is None else model.bias.reshape(1)
    return _loaded(made, {**state, "logit_scale": model.log_scale.reshape(1), "logit_bias": bias})


def _loaded(made: PreTrainedModel, state: Mapping[str, Tensor]) -> PreTrainedModel:
    made.load_state_dict({key: value.detach().float().cpu() for key, value in state.items()})
    return made.eval()


def _prefixed(net: nn.Module, pairs: list[weight_names.Pair], made: nn.Module) -> dict[str, Tensor]:
    return weight_names.converted(uncompiled(net.state_dict()), made, weight_names.inverted(pairs), "the model")


def _text_state(text: OpenClipTextTower, made: nn.Module) -> dict[str, Tensor]:
    return _prefixed(text.net, weight_names.text(len(text.net.transformer.resblocks)), made)


def _text_config(model: Model, text: OpenClipTextTower) -> Config:
    own = text.config()["model"]
    cfg = CLIPTextCfg(**own["text_cfg"])
    # 2 tells transformers to take the greatest id for the end, as open_clip's argmax does; CLIP's own end token is the greatest
    greatest, own_start = (49407, 49406) if cfg.vocab_size == 49408 else (2, None)
    end = {"eos": cfg.eos_id, "argmax": greatest}.get(cfg.pool_type)
    return {
        **_sizes(cfg.width, cfg.layers, cfg.heads, cfg.mlp_ratio, cfg.norm_kwargs, 1e-5),
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": text.context_length,
        "hidden_act": _act(own["quick_gelu"], cfg.act_kwargs),
        "bos_token_id": own_start,
        "eos_token_id": end,
        "pad_token_id": model.tokenizer.pad_id,
    }


def _sizes(width: int, layers: int, heads: int, ratio: float, norm: Config | None, eps: float) -> Config:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": int(width * ratio),
        "layer_norm_eps": (norm or {}).get("eps", eps),
    }


def _act(quick: bool, act_kwargs: Config | None) -> str:
    if quick:
        return "quick_gelu"
    return {"tanh": "gelu_pytorch_tanh", "none": "gelu"}[(act_kwargs or {}).get("approximate", "none")]


def _timm_act(act: nn.Module) -> str:
    if isinstance(act, QuickGELU):
        return "quick_gelu"
    tanh = isinstance(act, GELUTanh) or getattr(act, "approximate", "none") == "tanh"
    return "gelu_pytorch_tanh" if tanh else "gelu"


def _is_siglip(tower: TimmImageTower) -> bool:
    """Whether an image tower of timm has SigLIP's form: attention pooling, no class token, nothing else added."""
    if not tower.is_vit or tower.near_SS is not None:
        return False
    net = tower.net
    plain = all(isinstance(getattr(net, name), nn.Identity) for name in ("norm_pre", "fc_norm")) and net.num_prefix_tokens == 0
    block = net.blocks[0]
    bare = all(isinstance(part, nn.Identity) for part in (block.ls1, block.ls2, block.attn.q_norm, block.attn.k_norm))
    return plain and bare and isinstance(net.attn_pool, AttentionPoolLatent) and block.attn.qkv.bias is not None


def _same_or_refuse(stated: Config, form: type, served: set[str], side: str) -> None:
    """Refuses settings beyond those that both libraries have."""
    defaults = {f.name: f.default for f in fields(form)}
    for name, value in stated.items():
        if name not in served and value != defaults.get(name):
            raise UserError(f"transformers' CLIP has no {side} tower with {name} = {value!r}; export to open_clip or onnx")


def _processor(model: Model, clip: bool) -> Config:
    prepared = model.preprocess
    square = {"height": prepared.size, "width": prepared.size}
    crop = prepared.resize == "crop"
    record: Config = {
        "image_processor_type": "CLIPImageProcessor" if crop or clip else "SiglipImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": prepared.size} if crop else square,
        "resample": {"bilinear": 2, "bicubic": 3}[prepared.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
        "do_convert_rgb": True,
    }
    return record | ({"do_center_crop": True, "crop_size": square} if crop else {"do_center_crop": False})

"""To open_clip: a folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads.

``open_clip_config.json``, ``open_clip_model.safetensors`` and, for tokenisers that are not CLIP's own, ``tokenizer.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from safetensors.torch import save_file
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers.base import Config, ImageTower
from wholegrain.towers.export.approximation import BEYOND, special_part, tower_name
from wholegrain.towers.export.comparison import Sample, clip_distances
from wholegrain.towers.export.tokenizer_files import write_tokenizer
from wholegrain.towers.heads.base import Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import OpenClipImageTower, OpenClipPooledTower, OpenClipTextTower
from wholegrain.towers.sources.timm import TimmImageTower
from wholegrain.towers.tensor_files import uncompiled

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


def write_open_clip(model: Model, folder: Path, hub_name: str = "") -> None:
    """Writes the folder.

    Args:
        hub_name: where it will be on the Hub; open_clip looks for the tokeniser there when it loads from the Hub.

    Raises:
        UserError: a part that open_clip does not have, by name.
    """
    model_cfg = open_clip_config(model, hub_name)
    clip = _filled(model, model_cfg)
    state = {key: value.detach().contiguous().cpu() for key, value in sorted(clip.state_dict().items())}
    if not model_cfg.get("custom_text", False):  # open_clip's CLIP class has the text tower's parts in its own top level
        state = {key.removeprefix("text."): value for key, value in state.items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    prepared = model.preprocess
    preprocess = {
        "mean": list(prepared.mean),
        "std": list(prepared.std),
        "interpolation": prepared.interpolation,
        "resize_mode": {"crop": "shortest", "squash": "squash"}[prepared.resize],
    }
    record = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
    if not isinstance(model.tokenizer, ClipTokenizer):
        write_tokenizer(model.tokenizer, folder, as_given=_keeps_tokenizer(model))


@torch.no_grad()
def open_clip_distances(model: Model, folder: Path) -> dict[str, float]:
    """How far apart the model and what open_clip makes of the folder are."""
    clip = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0]
    assert isinstance(clip, CLIP | CustomTextCLIP)
    clip.eval()
    sample = Sample.of(model)
    rows = sample.tokens.tokens_NL
    rows = nn.functional.pad(rows, (0, model.text_tower.context_length - rows.shape[1]), value=model.tokenizer.pad_id)
    image_BD = clip.encode_image(model.preprocess.normalise(sample.pixels_BCHW))
    return clip_distances(model, sample, image_BD, clip.encode_text(rows), clip)


def open_clip_config(model: Model, hub_name: str = "") -> Config:
    """open_clip's ``model_cfg``; refuses what it cannot say."""
    if (part := special_part(model)) is not None:
        raise UserError(f"open_clip has no place for {part}; export to onnx or wholegrain, or give --approximate")
    image, text = model.image_tower, model.text_tower
    if not isinstance(text, OpenClipTextTower):
        raise UserError(f"open_clip has no configuration for this text tower ({tower_name(text)}); {BEYOND}")
    widths = model.head.widths
    config: Config = {"embed_dim": widths.shared}
    vision, quick = _vision_config(image, widths)
    text_config = text.config()["model"]
    text_quick = bool(text_config["quick_gelu"])
    if quick is not None and quick != text_quick and text_config["text_cfg"].get("act_kwargs") is None:
        raise UserError(
            "one tower uses quick GELU and the other does not, which open_clip cannot say; export to transformers or onnx"
        )
    if (quick is None and text_quick) or quick:
        config["quick_gelu"] = True
    vision["image_size"] = model.preprocess.size
    config |= {"vision_cfg": vision, "text_cfg": _text_config(model, text_config["text_cfg"], hub_name)}
    if "timm_model_name" in vision or widths.text_projection != "linear":
        config["custom_text"] = True
    if model.bias is not None:
        config["init_logit_bias"] = model.bias.item()
    return config


def _vision_config(tower: ImageTower, widths: Widths) -> tuple[Config, bool | None]:
    """``vision_cfg``, and whether it uses quick GELU (``None``: it does not ask)."""
    form = widths.image_projection
    if isinstance(tower, OpenClipImageTower | OpenClipPooledTower):
        if isinstance(tower, OpenClipImageTower) and form != "linear":
            raise UserError(f"open_clip has no place for this image projection ({form}); export to onnx or wholegrain")
        own = tower.config()["model"]
        is_timm = "timm_model_name" in own["vision_cfg"]
        return dict(own["vision_cfg"]), None if is_timm else bool(own["quick_gelu"])
    if not isinstance(tower, TimmImageTower) or tower.config()["kind"] not in ("timm", "open_clip"):
        raise UserError(f"open_clip has no configuration for this image tower ({tower_name(tower)}); {BEYOND}")
    config = tower.config()
    if config["kind"] == "open_clip":
        return dict(config["model"]["vision_cfg"]), None
    if config["kwargs"]:
        kwargs = ", ".join(f"{key}={value}" for key, value in config["kwargs"].items())
        raise UserError(
            f"open_clip has no configuration for this image tower ({config['name']} with {kwargs}); export to transformers or onnx"
        )
    pool = tower.net.global_pool if isinstance(getattr(tower.net, "global_pool", None), str) else ""
    proj = {"linear": "linear", "linear_bias": "linear", "identity": "none"}[form]
    vision = {"timm_model_name": config["name"], "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj}
    return {**vision, "timm_proj_bias": form == "linear_bias"}, None


def _text_config(model: Model, text_cfg: Config, hub_name: str) -> Config:
    form = model.head.widths.text_projection
    config = {**text_cfg, "proj_bias": form == "linear_bias", "proj_type": "none" if form == "identity" else "linear"}
    config = {key: value for key, value in config.items() if value is not None}
    tokenizer = model.tokenizer
    if isinstance(tokenizer, ClipTokenizer):
        config.pop("hf_tokenizer_name", None)
        if tokenizer.clean != "lower":
            config["tokenizer_kwargs"] = {"clean": tokenizer.clean}
        return config
    if not _keeps_tokenizer(model):
        config["tokenizer_kwargs"] = {"clean": "whitespace"}
    return {**config, "hf_tokenizer_name": hub_name or config.get("hf_tokenizer_name") or "."}


def _keeps_tokenizer(model: Model) -> bool:
    """The tokeniser came from open_clip, whose configuration says how to clean and what to set around a text."""
    return bool(model.text_tower.config()["model"]["text_cfg"].get("hf_tokenizer_name"))


def _filled(model: Model, model_cfg: Config) -> CustomTextCLIP:
    """open_clip's model with this one's weights."""
    settings = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    try:
        clip = CustomTextCLIP(**json.loads(json.dumps(settings)))
        _fill_image(model, clip.visual)
        _fill(clip.text, _weights(model.text_tower), model.head.text, "text_projection")
    except (RuntimeError, TypeError, AssertionError) as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"open_clip builds this model otherwise ({detail}); export to onnx or wholegrain") from error
    with torch.no_grad():
        clip.logit_scale.fill_(model.log_scale.item())
    return clip.eval()


def _fill_image(model: Model, visual: nn.Module) -> None:
    state = _weights(model.image_tower)
    if isinstance(visual, TimmModel) and isinstance(model.image_tower, TimmImageTower):
        trunk: Any = visual.trunk
        projection = getattr(visual.head, "proj", None)
        if projection is None and isinstance(trunk.get_classifier(), nn.Linear):
            projection = trunk.get_classifier()
            state |= {name: value for name, value in trunk.state_dict().items() if name not in state}
        trunk.load_state_dict(state)
        if projection is not None:
            projection.load_state_dict(model.head.image.state_dict())
    elif isinstance(model.image_tower, OpenClipImageTower):
        _fill(visual, state, model.head.image, "proj")
    else:
        visual.load_state_dict(state)


def _fill(net: nn.Module, state: dict[str, Tensor], projection: nn.Module, name: str) -> None:
    """A transformer's weights and, by the name that open_clip gives it, its projection (a matrix or a layer)."""
    theirs = getattr(net, name)
    own = {key: value.detach() for key, value in projection.state_dict().items()}
    if isinstance(theirs, nn.Linear):
        state |= {f"{name}.{key}": value for key, value in own.items()}
    elif theirs is not None:
        state[name] = own["weight"].T
    net.load_state_dict(state)


def _weights(tower: nn.Module) -> dict[str, Tensor]:
    return {key.removeprefix("net."): value.detach().float() for key, value in uncompiled(tower.state_dict()).items()}

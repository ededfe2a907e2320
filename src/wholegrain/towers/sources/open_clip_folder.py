"""The configuration in a folder of open_clip, checked before open_clip builds what it says."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.errors import UserError
from wholegrain.files import read_json
from wholegrain.towers.base import Config
from wholegrain.towers.bounds import build_on_meta, check_numbers
from wholegrain.towers.sources.open_clip import text_net, vision_net
from wholegrain.towers.tensor_files import size_of

CONFIG_FILE, LOCAL = "open_clip_config.json", "local-dir:"
AGAIN = "get the complete model again"


class _Sizes(TypedDict):
    """What open_clip's configurations of a model must say."""

    embed_dim: int
    vision_cfg: Config
    text_cfg: Config
    quick_gelu: NotRequired[bool]


class _Stated(TypedDict):
    """``open_clip_config.json``."""

    model_cfg: _Sizes
    preprocess_cfg: NotRequired[Config]


def refuse_other_kinds(name: str, model_cfg: Config) -> None:
    """Refuses what is no pair of an image tower and open_clip's own text transformer, before anything is built or fetched.

    Raises:
        UserError: parts beside the two towers (CoCa, GenLIP), a model of sounds, or a text tower of another kind.
    """
    beyond = sorted(key for key in model_cfg if key.endswith("_cfg") and key not in ("vision_cfg", "text_cfg", "preprocess_cfg"))
    if beyond or "vision_cfg" not in model_cfg:
        parts = ", ".join(beyond) or "no vision_cfg"
        raise UserError(f"{name} is no model of an image and a text tower (it has {parts}); choose one that is")
    text_cfg = model_cfg["text_cfg"]
    if text_cfg.get("hf_model_name"):
        tower = text_cfg["hf_model_name"]
        raise UserError(f"{name} reads text with a Hugging Face tower ({tower}); describe the two towers as a pair in TOML")
    if text_cfg.get("text_arch", "clip") != "clip":
        raise UserError(f"{name} has a text tower of the kind {text_cfg['text_arch']!r}, not served here; choose another model")


def read_stated(folder: Path) -> Config:
    """The configuration in a folder, of a model that its weights can fill.

    open_clip reads the folder again by itself; what it would trip over is refused here first.

    Raises:
        UserError: it is missing, damaged, or describes what its weights cannot fill.
    """
    path = folder / CONFIG_FILE
    stated = read_json(path, _Stated, AGAIN)
    config: Config = dict(stated["model_cfg"])
    check_numbers(stated, str(path), AGAIN)
    refuse_other_kinds(str(path), config)
    weights = sorted(file for ending in ("safetensors", "bin", "pth") for file in folder.glob(f"*.{ending}"))
    most = max((size_of(file, AGAIN) for file in weights), default=0)
    build_on_meta(lambda: (vision_net(config), text_net(config)), 2 * most + 10**7, str(path), AGAIN)
    return config

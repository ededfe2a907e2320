"""The configuration in a folder of open_clip, checked before open_clip builds what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from open_clip.model import _build_text_tower, _build_vision_tower

from wholegrain.errors import UserError
from wholegrain.files import read_json
from wholegrain.towers.bounds import check_numbers, dry
from wholegrain.towers.tensor_files import size_of

CONFIG_FILE, LOCAL = "open_clip_config.json", "local-dir:"
AGAIN = "get the complete model again"


class _Sizes(TypedDict):
    """What open_clip's configurations of a model must say."""

    embed_dim: int
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    quick_gelu: NotRequired[bool]


class _Stated(TypedDict):
    """``open_clip_config.json``."""

    model_cfg: _Sizes
    preprocess_cfg: NotRequired[dict[str, Any]]


def read_stated(folder: Path) -> dict[str, Any]:
    """The configuration in a folder, of a model that its weights can fill.

    open_clip reads the folder again by itself; what it would trip over is refused here first.

    Raises:
        UserError: it is missing, damaged, or describes what its weights cannot fill.
    """
    path = folder / CONFIG_FILE
    stated = read_json(path, _Stated, AGAIN)
    config: dict[str, Any] = dict(stated["model_cfg"])
    check_numbers(stated, str(path), AGAIN)
    if "hf_model_name" in config["text_cfg"]:
        raise UserError(f"{path} reads text with a Hugging Face tower; describe the two towers as a pair in TOML")
    weights = sorted(file for ending in ("safetensors", "bin", "pth") for file in folder.glob(f"*.{ending}"))
    most = max((size_of(file, AGAIN) for file in weights), default=0)
    if "multimodal_cfg" not in config:
        dry(lambda: _both(config), 2 * most + 10**7, str(path), AGAIN)
    return config


def _both(config: dict[str, Any]) -> None:
    quick = config.get("quick_gelu", False)
    vision = {name: value for name, value in config["vision_cfg"].items() if name != "timm_model_pretrained"}
    _build_vision_tower(config["embed_dim"], vision, quick)  # type: ignore[arg-type]
    _build_text_tower(config["embed_dim"], dict(config["text_cfg"]), quick)  # type: ignore[arg-type]

"""To peft: low-rank adapters, and beside them the model that they belong to.

``PeftModel.from_pretrained(CLIPModel.from_pretrained(OUT/"base"), OUT)`` is the trained model: ``adapter_config.json`` and
``adapter_model.safetensors`` are peft's LoRA, ``base/`` is a folder of transformers (``CLIPModel`` or ``SiglipModel``). In it what has adapters is
as it was before training, and what was trained without them (projections, temperature, a tower that is not in ``model.lora.towers``) as it is
now: peft adds to matrices and replaces nothing.

Our fused matrix of queries, keys and values has one adapter, which becomes three with the same ``lora_A``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wholegrain.files import read_json
from wholegrain.structure import JsonTable
from wholegrain.towers.export.adapters import Adapters
from wholegrain.towers.export.transformers import distances_of, their_model, write_transformers
from wholegrain.towers.model import Model
from wholegrain.towers.sources import weight_names
from wholegrain.towers.sources.open_clip import OpenClipImageTower
from wholegrain.towers.tensor_files import read_tensors

BASE, CONFIG_FILE, WEIGHTS_FILE = "base", "adapter_config.json", "adapter_model.safetensors"
_STEM, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_AGAIN = "export the model again"


def write_peft(model: Model, adapters: Adapters, folder: Path) -> None:
    """Writes the folder.

    Args:
        model: the trained one, adapters added.

    Raises:
        UserError: transformers is missing, or a part that its classes do not have, by name.
    """
    base = copy.deepcopy(model)
    state = base.state_dict()
    for name, before_OI in adapters.bases.items():
        state[name].copy_(before_OI)
    (folder / BASE).mkdir()
    write_transformers(base, folder / BASE)
    modules, tensors = _modules(model), {}
    for name, (down_RI, up_OR) in adapters.factors.items():
        for module, rows_OR in zip(modules[name], up_OR.chunk(len(modules[name])), strict=True):
            tensors[f"{_STEM}{module}{_DOWN}"] = down_RI.clone()
            tensors[f"{_STEM}{module}{_UP}"] = rows_OR.clone()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    adapted = sorted(module for name in adapters.factors for module in modules[name])
    record = _config(adapters, adapted, "CLIP" if isinstance(model.image_tower, OpenClipImageTower) else "Siglip")
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")


@torch.no_grad()
def peft_distances(model: Model, folder: Path) -> dict[str, float]:
    """How far apart the model is from the base that transformers reads, with the adapters of the file added to its matrices."""
    theirs = their_model(folder / BASE)
    config = read_json(folder / CONFIG_FILE, JsonTable, _AGAIN)
    tensors = read_tensors(folder / WEIGHTS_FILE, _AGAIN)
    for module in config["target_modules"]:
        down_RI, up_OR = (tensors[f"{_STEM}{module}{part}"] for part in (_DOWN, _UP))
        theirs.get_parameter(f"{module}.weight").addmm_(up_OR, down_RI, alpha=config["lora_alpha"] / config["r"])
    return distances_of(model, theirs, folder / BASE)


def base_class(folder: Path) -> str:
    """The class of transformers that ``base/`` of a written folder is of."""
    return read_json(folder / CONFIG_FILE, JsonTable, _AGAIN)["auto_mapping"]["base_model_class"]


def _config(adapters: Adapters, modules: list[str], kind: str) -> dict[str, object]:
    whole = adapters.alpha == int(adapters.alpha)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": f"{kind}Model", "parent_library": f"transformers.models.{kind.lower()}.modeling_{kind.lower()}"},
        "base_model_name_or_path": BASE,
        "r": adapters.rank,
        "lora_alpha": int(adapters.alpha) if whole else adapters.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": modules,  # whole names: SigLIP's pooling has an mlp.fc1, too
    }


def _modules(model: Model) -> dict[str, tuple[str, ...]]:
    """A matrix of our towers' blocks -> transformers' modules: one, or queries, keys and values."""
    image: Any = model.image_tower.net
    text: Any = model.text_tower.net
    if isinstance(model.image_tower, OpenClipImageTower):
        seen = weight_names.clip_image(len(image.transformer.resblocks))
    else:
        seen = weight_names.siglip_image(len(image.blocks))
    read = weight_names.text(len(text.transformer.resblocks))
    return {
        f"{tower}.net.{ours[0]}": tuple(name.removesuffix(".weight") for name in theirs)
        for tower, pairs in (("image_tower", seen), ("text_tower", read))
        for ours, theirs in pairs
        if len(ours) == 1
    }

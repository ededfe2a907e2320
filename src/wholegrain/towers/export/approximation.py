"""What of a model an ordinary CLIP can hold, and what the nearest ordinary CLIP is where it cannot hold all.

A format of another library has two towers, a projection each, a temperature and perhaps a bias. Training-only parts (MGCA's prototypes,
COSMOS's cross-attention) may stay behind: pairs are scored by the cosine without them. Everything else is refused by name, or with
``--approximate`` replaced by what is nearest to it, which is then measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from wholegrain.errors import UserError
from wholegrain.towers.base import ImageTower, TextTower
from wholegrain.towers.heads.base import PlainHead
from wholegrain.towers.heads.branches import BranchHead
from wholegrain.towers.io import build_image_tower
from wholegrain.towers.model import Model

PARTS = {"sparc": "its SPARC adapters", "llip": "its mixture tokens", "fusion": "its fusion head"}
"""What heads have that an ordinary CLIP has not."""
BEYOND = "export --to onnx, or --to wholegrain (a folder that every command here takes)"
"""What holds models that are no ordinary CLIP."""
COSINE_OF = ("filip", "pacl", "flair", "fusion", "grain")
"""Heads whose joint score stands beside plain pooled vectors."""


def special_part(model: Model) -> str | None:
    """What of the model no ordinary CLIP holds; ``None`` if nothing."""
    head, tower = model.head, model.image_tower
    if isinstance(head, BranchHead):
        return f"its {head.settings.branches} branches"
    if head.kind in PARTS:
        return PARTS[head.kind]
    if head.scores_pairs:
        return f"the joint score of its {head.kind} head"
    if tower.branches is not None or tower.mlp_branches is not None:
        return "the branches of its image tower"
    return None


def tower_name(tower: ImageTower | TextTower) -> str:
    """What a tower is, for a sentence."""
    config = tower.config()
    if config["kind"] == "hf":
        return f"{config['hf']['model_type']} of Hugging Face"
    return "the preset small" if config["kind"] == "small" else type(tower).__name__


@dataclass(frozen=True)
class Approximation:
    """An ordinary CLIP in the place of a model.

    Attributes:
        model: the ordinary CLIP.
        description: what it is, as a phrase.
        agreement: mean cosine of its image vectors with the model's own.
    """

    model: Model
    description: str
    agreement: float


def approximated(model: Model, pixels_BCHW: Tensor) -> Approximation:
    """The nearest ordinary CLIP, by the mean cosine of its image vectors with the model's on these pictures.

    Of a model with branches the candidates are each branch alone and, where branches are class tokens, one class token that is their mean;
    branches that are read out of the patches, or stand beside a mean over patches, leave the vector that they were added to.

    Raises:
        UserError: the model has a part without which its vectors are not its own.
    """
    kind = model.head.kind
    if kind in COSINE_OF:
        candidates: dict[str, Callable[[], Model]] = {
            f"its cosine, without the joint score of the {kind} head": lambda: _bare(model)
        }
    elif isinstance(model.head, BranchHead):
        candidates = _of_branches(model, model.head.settings.branches)
    else:
        raise UserError(f"an ordinary CLIP without {special_part(model)} would be another model; export it to onnx or wholegrain")
    with torch.no_grad():
        own = normalize(model.encode_images(pixels_BCHW).pooled_BD.float(), dim=-1)
        found = []
        for description, make in candidates.items():
            made = make().eval()
            near = cosine_similarity(own, made.encode_images(pixels_BCHW).pooled_BD.float()).mean().item()
            found.append(Approximation(made, description, near))
    return max(found, key=lambda candidate: candidate.agreement)


def _of_branches(model: Model, count: int) -> dict[str, Callable[[], Model]]:
    tower = model.image_tower
    if tower.mlp_branches is not None:
        return {f"branch {h + 1} of {count}": lambda h=h: _with_stream(model, h) for h in range(count)}
    if tower.branches is not None and tower.branches.replaces_class:
        tokens_HV = tower.branches.tokens_HV.detach()
        chosen = {f"branch {h + 1} of {count}, its class token alone": tokens_HV[h] for h in range(count)}
        chosen[f"one class token, the mean of the {count} branches'"] = tokens_HV.mean(0)
        return {name: lambda token=token: _with_class_token(model, token) for name, token in chosen.items()}
    if tower.branches is not None:
        return {"the mean over patches, without its branches": lambda: _rebuilt(model, lambda name, value: _dropped(name, value))}
    return {"the pooled vector, without the branches read out of patches": lambda: _bare(model)}


def _bare(model: Model) -> Model:
    """The model with a plain head."""
    made = copy.deepcopy(model)
    made.head = PlainHead(model.head.widths)
    made.head.start_from(model.head)
    return made


def _dropped(name: str, value: Tensor) -> tuple[str, Tensor] | None:
    return None if name.startswith("branches.") else (name, value)


def _rebuilt(model: Model, change: Callable[[str, Tensor], tuple[str, Tensor] | None]) -> Model:
    """The model with an image tower without branches, whose weights are those of the old one after ``change``."""
    tower = model.image_tower
    config = {key: value for key, value in tower.config().items() if key not in ("branches", "mlp_branches")}
    made = _bare(model)
    made.image_tower = build_image_tower(config)
    kept = (change(name, value) for name, value in tower.state_dict().items())
    made.image_tower.load_state_dict(dict(pair for pair in kept if pair is not None))
    return made.to(model.device)


def _with_class_token(model: Model, token_V: Tensor) -> Model:
    """Branch tokens have their row of the position table summed in; here it is taken out again."""
    net: Any = model.image_tower.net
    if hasattr(net, "class_embedding"):
        name, value = "net.class_embedding", token_V - net.positional_embedding[0].detach()
    else:
        if net.pos_embed is not None and not net.no_embed_class:
            token_V = token_V - net.pos_embed[0, 0].detach()
        name, value = "net.cls_token", token_V[None, None]
    return _rebuilt(model, lambda key, old: (name, value.clone()) if key == name else _dropped(key, old))


def _with_stream(model: Model, branch: int) -> Model:
    """Branch h of streams: the blocks with its own second matrices."""

    def change(name: str, value: Tensor) -> tuple[str, Tensor]:
        name = name.replace(".block.", ".")
        for theirs, ours in (("weight_HVF", "weight"), ("bias_HV", "bias")):
            if name.endswith(theirs):
                return name.removesuffix(theirs) + ours, value[branch].clone()
        return name, value

    return _rebuilt(model, change)

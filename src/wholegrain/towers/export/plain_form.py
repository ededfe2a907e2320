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
from wholegrain.towers.heads.base import PlainHead
from wholegrain.towers.io import build_image_tower
from wholegrain.towers.model import Model

SCORED_BY_COSINE = ("plain", "mgca", "cosmos")
BEYOND = "export --to onnx, or --to wholegrain (a folder that every command here takes)"
"""What holds models that are no ordinary CLIP."""
COSINE_OF = ("filip", "pacl", "flair", "fusion")
"""Heads whose joint score stands beside plain pooled vectors."""


def special_part(model: Model) -> str | None:
    """What of the model no ordinary CLIP holds; ``None`` if nothing."""
    head, tower = model.head, model.image_tower
    if head.kind == "branches":
        return f"its {head.settings.branches} branches"  # type: ignore[attr-defined]
    if head.kind == "sparc":
        return "its SPARC adapters"
    if head.kind == "llip":
        return "its mixture tokens"
    if head.kind == "fusion":
        return "its fusion head"
    if head.kind not in SCORED_BY_COSINE:
        return f"the joint score of its {head.kind} head"
    if getattr(tower, "branches", None) is not None or getattr(tower, "mlp_branches", None) is not None:
        return "the branches of its image tower"
    return None


def named(tower: Any) -> str:
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
        said: what it is, as a phrase.
        agreement: mean cosine of its image vectors with the model's own.
    """

    model: Model
    said: str
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
    elif kind == "branches":
        candidates = _of_branches(model)
    else:
        raise UserError(f"an ordinary CLIP without {special_part(model)} would be another model; export it to onnx or wholegrain")
    with torch.no_grad():
        own = normalize(model.encode_images(pixels_BCHW).pooled_BD.float(), dim=-1)
        found = []
        for said, make in candidates.items():
            made = make().eval()
            near = cosine_similarity(own, made.encode_images(pixels_BCHW).pooled_BD.float()).mean().item()
            found.append(Approximation(made, said, near))
    return max(found, key=lambda candidate: candidate.agreement)


def _of_branches(model: Model) -> dict[str, Callable[[], Model]]:
    tower: Any = model.image_tower
    head: Any = model.head
    count: int = head.settings.branches
    if tower.mlp_branches is not None:
        return {f"branch {h + 1} of {count}": lambda h=h: _with_stream(model, h) for h in range(count)}
    if tower.branches is not None and tower.branches.replaces_class:
        tokens_HV = tower.branches.tokens_HV.detach()
        chosen = {f"branch {h + 1} of {count}, its class token alone": tokens_HV[h] for h in range(count)}
        chosen[f"one class token, the mean of the {count} branches'"] = tokens_HV.mean(0)
        return {said: lambda token=token: _with_class_token(model, token) for said, token in chosen.items()}
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
    tower: Any = model.image_tower
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
    return _rebuilt(model, lambda given, old: (name, value.clone()) if given == name else _dropped(given, old))


def _with_stream(model: Model, branch: int) -> Model:
    """Branch h of streams: the blocks with its own second matrices."""

    def change(name: str, value: Tensor) -> tuple[str, Tensor]:
        name = name.replace(".block.", ".")
        for theirs, ours in (("weight_HVF", "weight"), ("bias_HV", "bias")):
            if name.endswith(theirs):
                return name.removesuffix(theirs) + ours, value[branch].clone()
        return name, value

    return _rebuilt(model, change)

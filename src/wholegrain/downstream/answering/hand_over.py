"""From our image tower and a trained answerer to transformers' ``LlavaForConditionalGeneration``, and back.

``LlavaForConditionalGeneration`` of the folder gives the answers that ours gives: the vision tower's selected hidden state are the visual tokens.

* An ordinary open_clip Vision Transformer (OpenAI's, LAION's, DFN's, …) whose *penultimate* patches are seen becomes transformers' own ``CLIPVisionModel``,
  with ``vision_feature_layer = -2`` as in LLaVA-1.5: such a folder needs nothing of ours.
* Every other tower (timm's, the preset ``small``, one with branches, patches after the last normalisation) stands in
  :class:`~wholegrain.downstream.answering.llava_tower.WholegrainTower`, so ``import wholegrain.downstream.answering.llava_tower`` comes before loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from wholegrain.downstream.answering.answerer import Answerer
from wholegrain.downstream.answering.earlier_tower import EarlierTower
from wholegrain.downstream.answering.words import NEEDS
from wholegrain.errors import UserError
from wholegrain.files import disk_errors, folder_aside
from wholegrain.towers.base import ImageTower
from wholegrain.towers.export.transformers import clip_vision_model
from wholegrain.towers.sources.hf_library import quiet, transformers_for
from wholegrain.towers.sources.open_clip import OpenClipImageTower
from wholegrain.towers.sources.transformers import clip_image_tower

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedModel

    from wholegrain.towers.model import Model


def to_llava(model: Model, head: Answerer) -> LlavaForConditionalGeneration:
    """A complete LLaVA with this model's image tower, on the CPU, in float32 and eval mode; the weights are copies.

    Args:
        model: whose image tower the head was trained on.
        head: projector and decoder.

    Example::

        llava = to_llava(model, head)
        seen = llava.get_image_features(pixel_values=model.preprocess.normalise(pixels_BCHW))
    """
    transformers = transformers_for(NEEDS)
    given = head.llava.config
    vision, layer, strategy = _vision(model, head)
    count = _count(model, head)
    config = transformers.LlavaConfig(
        vision_config=vision.config,
        text_config=given.text_config,
        image_token_index=head.words.image,
        image_seq_length=count,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=False,
    )
    with quiet(transformers):
        made = transformers.LlavaForConditionalGeneration(config)
    made.resize_token_embeddings(cast(nn.Embedding, head.llava.get_input_embeddings()).num_embeddings)
    own = {name: value.detach().float().cpu() for name, value in head.llava.state_dict().items() if ".vision_tower." not in name}
    missing, odd = made.load_state_dict(own, strict=False)
    assert not odd
    assert all(".vision_tower." in name for name in missing)
    made.model.vision_tower.load_state_dict(vision.state_dict())
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = head.words.end, head.words.padding
    return made.float().eval()


def _vision(model: Model, head: Answerer) -> tuple[PreTrainedModel, int, str]:
    """The vision tower, which of its hidden states is taken, and whether the class token goes (``default``) or stays (``full``)."""
    from wholegrain.downstream.answering.llava_tower import WholegrainTower, WholegrainTowerConfig

    tower, size = model.image_tower, model.preprocess.size
    inner = tower.tower if isinstance(tower, EarlierTower) else tower
    if isinstance(tower, EarlierTower) and isinstance(inner, OpenClipImageTower):
        try:
            return clip_vision_model(inner, size), -2, "default"
        except UserError:  # a part that CLIPVisionModel does not have
            pass
    chosen = head.chosen
    config = WholegrainTowerConfig(inner.config(), tower.width, size, list(chosen.parts), chosen.layer)
    made = WholegrainTower(config)
    assert made.tower is not None
    made.tower.load_state_dict({name: value.detach().cpu() for name, value in tower.state_dict().items()})
    return made.eval(), -1, "full"


@torch.no_grad()
def _count(model: Model, head: Answerer) -> int:
    """S: how many visual tokens a picture has."""
    size = model.preprocess.size
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=model.device)
    return head.sees(model.raw_images(pixels, frozenset({"patches"}) & frozenset(head.chosen.parts))).shape[1]


def image_tower_of(llava: LlavaForConditionalGeneration) -> ImageTower:
    """The image tower of a LLaVA as one of ours: with the patches that its projector takes.

    Read are ``CLIPVisionModel`` (LLaVA-1.5's) and what :func:`to_llava` made; the weights are copies.

    Raises:
        UserError: it is another class, or takes several hidden states or another one than the last but one.
    """
    from wholegrain.downstream.answering.llava_tower import WholegrainTower, WholegrainTowerConfig

    vision: Any = llava.model.vision_tower
    if isinstance(vision, WholegrainTower):
        copy = WholegrainTower(WholegrainTowerConfig.from_dict(vision.config.to_dict()))
        copy.load_state_dict(vision.state_dict())
        assert copy.tower is not None  # made anew, with its computed buffers
        return copy.tower.eval()
    layer = llava.config.vision_feature_layer
    if vision.config.model_type != "clip_vision_model" or layer != -2:
        raise UserError(
            f"The LLaVA's vision tower is a {vision.config.model_type} whose hidden state {layer} is taken; read are clip_vision_model and -2."
        )
    bare: nn.Module = getattr(vision, "vision_model", vision)
    state = {f"vision_model.{name}": value.detach().float().cpu().clone() for name, value in bare.state_dict().items()}
    tower = clip_image_tower(Path("the LLaVA"), vision.config, state)
    return EarlierTower(tower, int(vision.config.image_size)).eval()


def save_llava(model: Model, head: Answerer, folder: Path) -> None:
    """Writes a folder that ``LlavaForConditionalGeneration.from_pretrained`` and ``AutoTokenizer.from_pretrained`` read.

    Raises:
        UserError: the folder is there already, or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; give a new folder, or delete it.")
    made = to_llava(model, head)
    transformers = transformers_for(NEEDS)
    with disk_errors(folder), folder_aside(folder) as part, quiet(transformers):
        made.save_pretrained(part)
        head.words.tokenizer.save_pretrained(part)

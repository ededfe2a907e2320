"""Our image towers as a vision tower of transformers' LLaVA: importing this module makes ``AutoModel`` know them.

``LlavaForConditionalGeneration`` takes any vision model that transformers' registry knows and that gives hidden states. Ordinary CLIP towers become
its own ``CLIPVisionModel`` (:mod:`~wholegrain.downstream.answering.hand_over`); all others, with branches or of the preset ``small``, stand in this class,
whose one hidden state are the visual tokens (``vision_feature_layer = -1``, ``vision_feature_select_strategy = "full"``).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from wholegrain.downstream.answering.earlier_tower import EarlierTower
from wholegrain.downstream.answering.settings import VisualTokens
from wholegrain.downstream.answering.visual_tokens import needs_of, visual_tokens
from wholegrain.towers.base import Config, ImageTower
from wholegrain.towers.io import build_image_tower


class WholegrainTowerConfig(PretrainedConfig):
    """Configuration of :class:`WholegrainTower`.

    Args:
        tower: of the image tower (:meth:`~wholegrain.towers.base.ImageTower.config`); ``None`` holds no tower.
        hidden_size: V of the visual tokens.
        image_size: of its pictures.
        parts, layer: :class:`~wholegrain.downstream.answering.settings.VisualTokens`.
    """

    model_type = "wholegrain_image_tower"

    def __init__(
        self,
        tower: Config | None = None,
        hidden_size: int = 128,
        image_size: int = 64,
        parts: list[str] | None = None,
        layer: str = "last",
        **kwargs: Any,
    ) -> None:
        self.tower, self.hidden_size, self.image_size = tower, hidden_size, image_size
        self.parts, self.layer = list(parts or ["patches"]), layer
        super().__init__(**kwargs)


class WholegrainTower(PreTrainedModel):
    """Normalised pixels in, visual tokens out, as a vision model of transformers."""

    config_class = WholegrainTowerConfig
    main_input_name = "pixel_values"
    _no_split_modules: ClassVar[list[str]] = []

    def __init__(self, config: WholegrainTowerConfig) -> None:
        super().__init__(config)
        self.chosen = VisualTokens(tuple(config.parts), config.layer)
        self.tower: ImageTower | None = None if config.tower is None else _tower(config)
        self._buffers_are_right = False
        self.post_init()

    def _init_weights(self, module: object) -> None:
        """Weights come with the tower."""

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """``[B, 3, H, W]`` to visual tokens ``[B, S, V]``, and the pooled vector ``[B, V]``."""
        assert self.tower is not None
        if not self._buffers_are_right:
            self._make_buffers(self.tower)
        raw = self.tower(pixel_values, needs_of(self.chosen))
        tokens_BSV = visual_tokens(raw, self.chosen)
        return BaseModelOutputWithPooling(last_hidden_state=tokens_BSV, pooler_output=raw.pooled_BV, hidden_states=(tokens_BSV,))  # type: ignore[arg-type]

    def _make_buffers(self, tower: ImageTower) -> None:
        """Computed buffers (masks, places) are in no file, and ``from_pretrained`` leaves them empty: they are those of a tower made anew."""
        saved = tower.state_dict().keys()
        computed = {name: buffer for name, buffer in tower.named_buffers() if name not in saved}
        if computed:
            assert isinstance(self.config, WholegrainTowerConfig)
            fresh = dict(_tower(self.config).named_buffers())
            for name, buffer in computed.items():
                buffer.copy_(fresh[name])
        self._buffers_are_right = True


def _tower(config: WholegrainTowerConfig) -> ImageTower:
    assert config.tower is not None
    tower = build_image_tower({**config.tower, "tune": "none"})
    return EarlierTower(tower, config.image_size) if config.layer == "penultimate" else tower


AutoConfig.register(WholegrainTowerConfig.model_type, WholegrainTowerConfig, exist_ok=True)
AutoModel.register(WholegrainTowerConfig, WholegrainTower, exist_ok=True)

"""Gradients with respect to attention: where a picture's vector would move towards the text if it looked there more.

LeGrad (Bousselham, Boggust, Chaybouti, Strobelt, Kuehne, "LeGrad: An Explainability Method for Vision Transformers via Feature Formation
Sensitivity", ICCV 2025, arXiv 2404.03214, section 3). It serves models whose patches were never brought near texts: CLIPs with a class token,
SigLIP with its attention pooling. For a layer l with attention weights A (G heads, S tokens) and its tokens Z behind the layer::

    s   = cos( head(pool(Z)), text )                      as if l were the last layer
    E_l = 1 / (G S) sum over heads and queries of max(0, ds / dA)
    map = mean over layers of E_l, at the patches

Where the tower pools by attention over the last layer's tokens (SigLIP), A is that of the pooling, fed with the tokens of layer l.

No weight is needed for its own derivative: ``ds/dA[g, i, j]`` is the product of ``ds/d(what query i attended to in head g)`` and the value of
token j. So a layer costs its own output map, MLP and pooling once more, forward and, for each phrase, backward (of the class token alone,
where that is what is pooled), and nothing goes back through the tower.

Where we differ from the released code (WalBouss/LeGrad). It takes the mean of *all* tokens of a layer, class token included, for the
vector of every CLIP; here ``pool`` is the model's own, so that with a class token only its query counts. It takes the last two layers by default, as
here (:data:`LAYERS`; the paper's are all, or more the larger the model). It enlarges maps and brings them to 0..1; who looks at ours does. For SigLIP
it blanks patches that light up for an empty prompt; here none are. Pairs of tokens that a mask keeps apart (towers with a short sight) have no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import eval_mode
from wholegrain.evaluation.read_outs.attention_layers import Layer, Layers, recorder_of
from wholegrain.evaluation.read_outs.contract import Phrase, ReadOut
from wholegrain.evaluation.read_outs.vectors import PooledReadOut, patches
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.features import ImageFeatures
from wholegrain.towers.heads.base import Head
from wholegrain.towers.model import Model

LAYERS = 2
"""The last ones that count."""
CELLS = 1 << 24
"""Derivatives in memory at a time."""


class GradientReadOut(ReadOut[list[Layer]]):
    """LeGrad's maps, see the module."""

    name = "gradient"
    sentence = f"gradient of the cosine with respect to attention to the patch, positive part, last {LAYERS} layers (LeGrad)"
    asks_pooled = True

    def __init__(self, model: EvaluatedModel) -> None:
        super().__init__(model)
        whole: Model | None = getattr(model, "model", model)  # type: ignore[assignment]  # of a wrapped one (whole and grain)
        if not isinstance(whole, Model):
            raise NotSupportedError(
                "The read-out gradient needs a Vision Transformer of this library's models, and this model is another; use pooled."
            )
        self._head = whole.head
        self._recorder = recorder_of(whole.image_tower, whole.head, LAYERS)

    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """Unit pooled vectors."""
        return PooledReadOut(self.model).ask(phrases)

    def recording(self) -> AbstractContextManager[Layers]:
        """Listens to the last layers."""
        return self._recorder.recording()

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Layers) -> list[Layer]:
        """The layers; on the model's device."""
        patches(image)
        with eval_mode(self.model), torch.no_grad():
            return [layer() for layer in recorded]

    def maps(self, look: list[Layer], asked_N: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Means over the layers."""
        most = max(1, *map(len, rows))
        padded_BR = torch.tensor([[*chosen, *[0] * (most - len(chosen))] for chosen in rows], dtype=torch.int64)
        text_BRD = asked_N[padded_BR]
        with eval_mode(self.model):
            total_BRP = torch.stack([self._of_layer(layer, text_BRD) for layer in look]).mean(0)
        return [map_RP[: len(chosen)] for map_RP, chosen in zip(total_BRP, rows, strict=True)]

    def _of_layer(self, layer: Layer, text_BRD: Tensor) -> Tensor:
        """A few pictures at a time, in bounded memory; on the CPU."""
        queries, tokens = layer.attended_BQA.shape[1], layer.values_BSA.shape[1]
        step = max(1, CELLS // max(1, text_BRD.shape[1] * layer.heads * queries * tokens))
        parts = []
        for start in range(0, len(text_BRD), step):
            part, text = layer.pictures(slice(start, start + step)), text_BRD[start : start + step]
            parts.append(attention_gradient(part, self._head, text.to(layer.values_BSA.device)).cpu())
        return torch.cat(parts)


def attention_gradient(layer: Layer, head: Head, text_BRD: Tensor) -> Tensor:
    """``E_l`` of the module: float32 ``[B, R, P]`` of a layer's B pictures and R unit texts for each."""
    with torch.enable_grad():
        attended_BQA = layer.attended_BQA.detach().clone().requires_grad_()
        image_BD = unit(head.project_image(layer.read(attended_BQA, layer.before_BQV)).pooled_BD)
        cosine_BR = (image_BD[:, None] * text_BRD).sum(-1)
        each_R1R = torch.eye(cosine_BR.shape[1], device=cosine_BR.device)[:, None]
        slopes_RBQA = torch.autograd.grad(
            cosine_BR, attended_BQA, each_R1R.expand(-1, len(cosine_BR), -1), is_grads_batched=True
        )[0]
    heads = (layer.heads, -1)
    slope_BGRQE = slopes_RBQA.unflatten(-1, heads).permute(1, 3, 0, 2, 4)
    value_BGSE = layer.values_BSA.unflatten(-1, heads).transpose(1, 2)
    slope_BGRQS = (slope_BGRQE.flatten(2, 3) @ value_BGSE.mT).unflatten(2, slope_BGRQE.shape[2:4]).clamp_min(0)
    if layer.blocked_QS is not None:
        slope_BGRQS = slope_BGRQS.masked_fill(layer.blocked_QS, 0.0)
    return (slope_BGRQS.mean(1).sum(2) / value_BGSE.shape[2])[..., layer.first :].float()

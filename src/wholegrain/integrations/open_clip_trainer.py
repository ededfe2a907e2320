"""The losses of a recipe inside open_clip's own trainer.

open_clip's step calls ``loss(**model(images, texts), output_dict=True)``, sums the values, and lets DDP average the gradients of all
processes. :class:`OpenClipLoss` answers that call. Its gradient is this process's share times the number of processes, so the average
is the gradient of the loss of the global batch, for features, scale and bias, at any number of processes: what open_clip's own loss
gives with ``--local-loss --gather-with-grad``. Its value is the global loss, the same in every process.

:func:`with_tokens` lets a model's output carry patches and tokens, which open_clip keeps to itself. See ``docs/open_clip.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.gather import sum_over, world
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe, Term

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

RecipeSource: TypeAlias = str | Path | Mapping[str, object] | Recipe | Iterable[Term]
GIVES = frozenset({"patches", "tokens", "negatives", "bias"})
_LOG = logging.getLogger(__name__)


class OpenClipLoss(nn.Module):
    """A recipe's losses with the signature of open_clip's.

    Args:
        recipe: a packaged recipe's name, a TOML file, nested dicts, a recipe, or terms. Only its terms are used: data, optimiser and
            head are those of open_clip.
        captions, negatives: texts of an image: ``captions`` true ones, each followed by ``negatives`` false ones. The texts of a batch
            are those of its first image, then those of the second, and so on.
        roles: of the captions in their order; one role serves all.
        kinds: of the negatives in their order; empty calls them ``negative-0`` and so on.
        group: the processes that share a batch; ``None`` means all.

    Raises:
        UserError: a term needs something that open_clip's models or these texts do not give.

    Example:
        >>> loss = OpenClipLoss("clip")
        >>> image, text = torch.eye(3), torch.eye(3)
        >>> found = loss(image_features=image, text_features=text, logit_scale=torch.tensor(10.0), output_dict=True)
        >>> list(found), found["clip_loss"].item() < 0.001
        (['clip_loss'], True)
    """

    def __init__(
        self,
        recipe: RecipeSource,
        *,
        captions: int = 1,
        negatives: int = 0,
        roles: Sequence[str] = ("web",),
        kinds: Sequence[str] = (),
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.captions, self.negatives, self.group = captions, negatives, group
        self.roles = tuple(roles) * captions if len(roles) == 1 else tuple(roles)
        self.kinds = tuple(kinds) or tuple(f"negative-{k}" for k in range(negatives))
        if captions < 1 or negatives < 0 or len(self.roles) != captions or len(self.kinds) != negatives:
            raise UserError(
                f"captions is {captions}, negatives {negatives}, with {len(self.roles)} roles and {len(self.kinds)} kinds; "
                "give one role or as many as captions, and no kinds or as many as negatives"
            )
        chosen = _recipe(recipe)
        self._objectives = {term.name: Objective([term]) for term in _terms(chosen, set(self.roles), negatives > 0)}
        self.needs = frozenset().union(*(objective.needs for objective in self._objectives.values()))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        image_patches: Tensor | None = None,
        text_tokens: Tensor | None = None,
        text_mask: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_present: Tensor | None = None,
        output_dict: bool = False,
    ) -> dict[str, Tensor] | Tensor:
        """The weighted terms, ``<term>_loss`` -> scalar, or their sum.

        Args:
            image_features, text_features: ``[B, D]``, ``[N, D]``.
            logit_scale, logit_bias: as open_clip gives them, the scale after ``exp``.
            image_patches, text_tokens, text_mask, text_ids, text_present: what :func:`with_tokens` adds: ``[B, P, D]``, ``[N, L, D]``,
                bool ``[N, L]``, int64 ``[N]``, bool ``[N]``. Without ``text_ids`` no text is known to occur twice.
        """
        self._check(len(image_features), len(text_features), logit_bias, image_patches, text_tokens)
        pairing = self._pairing(len(image_features), image_features.device, text_ids)
        grid = None if image_patches is None else (1, image_patches.shape[1])
        image = ImageFeatures(image_features, None, image_patches, grid)
        text = TextFeatures(text_features, text_tokens, text_mask)
        if text_present is not None:
            caption = torch.where(
                pairing.true_N, torch.arange(len(text_features), device=text_present.device), pairing.negative_of_N
            )
            here = (text_present & text_present[caption]).nonzero().squeeze(1)
            text, pairing = text.select(here), pairing.select_texts(here)
        losses, processes = {}, world(self.group)[1]
        for name, objective in self._objectives.items():
            share = objective(image, text, pairing, logit_scale, logit_bias, group=self.group).value
            gradient = processes * share
            losses[f"{name}_loss"] = gradient + (sum_over(share, self.group) - gradient).detach()
        if logit_bias is not None and "bias" not in self.needs:  # DDP waits for the gradient of every parameter
            losses[next(iter(losses))] += 0 * logit_bias.sum()
        return losses if output_dict else torch.stack([x.reshape(()) for x in losses.values()]).sum()

    def _check(self, images: int, texts: int, bias: Tensor | None, patches: Tensor | None, tokens: Tensor | None) -> None:
        each = self.captions * (1 + self.negatives)
        if texts != images * each:
            raise UserError(
                f"the batch has {images} images and {texts} texts, where {images * each} are expected; give every image {self.captions} "
                f"captions with {self.negatives} negatives each, or set captions and negatives of OpenClipLoss"
            )
        for need, part in (("bias", bias), ("patches", patches), ("tokens", tokens)):
            if need in self.needs and part is None:
                remedy = "start open_clip with --siglip" if need == "bias" else "wrap the model: model = with_tokens(model)"
                raise UserError(f"the losses need {need}, which the model's output does not hold; {remedy}")

    def _pairing(self, images: int, device: torch.device, text_ids: Tensor | None) -> Pairing:
        """Every process's images and texts have ids of their own, unless ``text_ids`` says otherwise."""
        captions, foils = self.captions, self.negatives
        each = captions * (1 + foils)
        place = torch.arange(images * each, device=device)
        nth = place % (1 + foils)
        role = place % each // (1 + foils)
        unique = (world(self.group)[0] << 40) + place
        names = tuple(dict.fromkeys(self.roles))
        role_of = torch.tensor([names.index(r) for r in self.roles], device=device)
        return Pairing(
            owner_N=place // each,
            negative_of_N=torch.where(nth == 0, -1, place - nth),
            role_N=role_of[role],
            kind_N=nth - 1,
            text_id_N=unique if text_ids is None else text_ids,
            image_id_B=unique[:images],
            roles=names,
            kinds=self.kinds,
        )

    def get_extra_state(self) -> dict[str, dict[str, Tensor]]:
        """What the losses carry from step to step; part of ``state_dict()``. open_clip does not save its loss."""
        return {name: objective.state_dict() for name, objective in self._objectives.items()}

    def set_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Puts back what :meth:`get_extra_state` gave."""
        for name, carried in state.items():
            self._objectives[name].load_state_dict(carried)


def _recipe(source: Any) -> Recipe:
    if isinstance(source, Recipe):
        return source
    if isinstance(source, (str, Path, Mapping)):
        return load_recipe(source)
    return Recipe(terms=tuple(source), name="of terms")


def _terms(recipe: Recipe, roles: set[str], negatives: bool) -> tuple[Term, ...]:
    for term in recipe.terms:
        beyond = sorted(Objective([term]).needs - GIVES)
        if beyond and not term.optional:
            raise UserError(
                f'Term "{term.name}" of recipe {recipe.name} needs "{beyond[0]}", which models of open_clip do not give; train it with '
                "wholegrain train."
            )
    terms, notes = choose_terms(recipe, roles, GIVES if negatives else GIVES - {"negatives"})
    if recipe.model.head != "plain":
        notes = (
            *notes,
            f'The head "{recipe.model.head}" of recipe {recipe.name} is not there: open_clip\'s projections are used.',
        )
    for note in notes:
        _LOG.warning(note)
    return terms


# ---- the model's side -------------------------------------------------------------------------------------------------------


def with_tokens(model: nn.Module) -> nn.Module:
    """Lets an open_clip model's output carry patches, tokens, which texts are there and which are the same; returns the model.

    Call it before the model is wrapped in DDP. While it trains, ``model(images, texts)`` also gives ``image_patches``, ``text_tokens``
    (projected as the pooled vectors are, not normalised), ``text_mask``, ``text_ids`` (equal for equal texts) and ``text_present``
    (False for a row of zeros: a caption or negative that is missing). Texts may be ``[B, T, L]``, T of each image; they are flattened.
    Weights, checkpoints and evaluation stay as they were.

    Raises:
        UserError: the model is not ``CLIP`` or ``CustomTextCLIP`` with open_clip's own Vision Transformer and text transformer, or it
            was not made with ``output_dict=True``.
    """
    from open_clip.transformer import TextTransformer, VisionTransformer

    visual, text = getattr(model, "visual", None), getattr(model, "text", model)
    own_text = isinstance(text, TextTransformer) or (text is model and hasattr(model, "ln_final"))
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or not own_text
        or getattr(text, "cls_emb", None) is not None
    ):
        raise UserError(
            "patches and tokens can be had from open_clip's own Vision Transformer and text transformer alone; for timm, ResNet, CoCa and "
            "Hugging Face towers use wholegrain train"
        )
    if not model.output_dict:
        raise UserError("the model gives a tuple; make it with output_dict=True")
    seen: dict[str, Tensor] = {}
    visual.output_tokens = True
    visual.register_forward_hook(lambda _, __, out: _keep(seen, "patches", cast("tuple[Tensor, Tensor]", out)))
    text.get_submodule("ln_final").register_forward_hook(lambda _, __, out: seen.update(tokens=out))
    model.register_forward_pre_hook(_flat, with_kwargs=True)
    model.register_forward_hook(lambda _, args, kwargs, out: _add(model, visual, text, seen, args, kwargs, out), with_kwargs=True)
    return model


def _keep(seen: dict[str, Tensor], name: str, out: tuple[Tensor, Tensor]) -> Tensor:
    seen[name] = out[1]
    return out[0]


def _texts(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor | None:
    return args[1] if len(args) > 1 else kwargs.get("text")


def _flat(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    texts = _texts(args, kwargs)
    if texts is None or texts.ndim != 3:
        return args, kwargs
    flat = texts.flatten(0, 1)
    return ((args[0], flat, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "text": flat})


def _add(
    net: nn.Module, visual: VisionTransformer, text: nn.Module, seen: dict[str, Tensor],
    args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: dict[str, Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    texts, found = _texts(args, kwargs), dict(seen)
    seen.clear()
    if not net.training or texts is None or len(found) < 2:
        return out
    patches = visual.ln_post(found["patches"]) if visual.final_ln_after_pool else found["patches"]
    return out | {
        "image_patches": _projected(patches, visual.proj),
        "text_tokens": _projected(found["tokens"], text.text_projection),
        "text_mask": _real(texts, text),
        "text_ids": _ids(texts),
        "text_present": (texts != 0).any(1),
    }


def _projected(x: Tensor, projection: nn.Module | Tensor | None) -> Tensor:
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def _real(texts_NL: Tensor, text: object) -> Tensor:
    """bool ``[N, L]``: up to the end token that is pooled; for other towers all that is not padding."""
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", "argmax")
    place = torch.arange(texts_NL.shape[1], device=texts_NL.device)
    if pool == "argmax":
        return place <= texts_NL.argmax(1, keepdim=True)
    if pool == "eos":
        end = getattr(text, "eos_id", None) or getattr(text, "text_eos_id", None)
        return place <= (texts_NL == end).int().argmax(1, keepdim=True)
    return texts_NL != getattr(text, "pad_id", 0)


def _ids(texts_NL: Tensor) -> Tensor:
    """Equal for equal rows, in every process: the rows' products with fixed random numbers, modulo 2^64."""
    draw = torch.Generator().manual_seed(0)
    factor_L = torch.randint(-(2**62), 2**62, (texts_NL.shape[1],), generator=draw) * 2 + 1
    return ((texts_NL.long() + 1) * factor_L.to(texts_NL.device)).sum(1)

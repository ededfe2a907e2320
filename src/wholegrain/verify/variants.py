"""The losses of the package and their variants: which there are, and which checks a variant is known to break."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.cosmos import CosmosLoss
from wholegrain.losses.distillation import DistillationLoss
from wholegrain.losses.diversity import DiversityLoss
from wholegrain.losses.dreamlip import DreamlipLoss
from wholegrain.losses.filip import FilipLoss
from wholegrain.losses.flair import FlairLoss
from wholegrain.losses.fsc_local import FscLocalLoss
from wholegrain.losses.gloria import GloriaLoss
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.itm import ItmLoss
from wholegrain.losses.llip import LlipLoss
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.losses.mgca import MgcaLoss
from wholegrain.losses.mgca_prototypes import MgcaPrototypesLoss
from wholegrain.losses.multi_positive import MultiPositiveLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.own_negatives import OwnNegativesLoss
from wholegrain.losses.paraphrases import ParaphrasesLoss
from wholegrain.losses.siglip import SiglipLoss
from wholegrain.losses.sparc import SparcLoss
from wholegrain.losses.text_conditioned import TextConditionedLoss
from wholegrain.losses.tgc import TgcLoss

CASES: dict[str, Any] = {
    "clip": ClipLoss(),
    "clip-negative-smooth": ClipLoss(duplicates="negative", label_smoothing=0.1),
    "clip-smooth": ClipLoss(label_smoothing=0.2),
    "clip-fixed": ClipLoss(temperature=0.07),
    "siglip": SiglipLoss(),
    "siglip-negative": SiglipLoss(duplicates="negative"),
    "siglip-positive": SiglipLoss(duplicates="positive"),
    "siglip-per-text": SiglipLoss(per="text"),
    "negclip": NegclipLoss(),
    "negclip-own": NegclipLoss(own_only=True, label_smoothing=0.1),
    "negclip-own-negative": NegclipLoss(own_only=True, duplicates="negative"),
    "imc-own": ImcLoss(),
    "imc-sibling": ImcLoss(positive="sibling", scaled=False),
    "imc-paper": ImcLoss(variant="paper"),
    "imc-cross": ImcLoss(variant="cross_modal"),
    "imc-released": ImcLoss(variant="released"),
    "imc-first": ImcLoss(variant="first_release"),
    "cmr": CmrLoss(),
    "cmr-grid": CmrLoss(reduction="grid", gap="paired"),
    "cmr-max": CmrLoss(margin="max"),
    "cmr-fixed-cosine": CmrLoss(margin="fixed", units="cosine", fixed=0.2),
    "sparc": SparcLoss(),
    "sparc-token-sigma": SparcLoss(sigma=0.5, reduction="token", similarity="cosine"),
    "sparc-softmax": SparcLoss(weights="softmax"),
    "sparc-softmax-cosine": SparcLoss(weights="softmax", similarity="cosine"),
    "sparc-detached": SparcLoss(detach_weights=True, sigma=0.0),
    "m2m-role": ManyToManyLoss(roles=("background", "overview", "style", "web")),
    "m2m-positional": ManyToManyLoss(assignment="positional", duplicates="negative"),
    "m2m-argmax": ManyToManyLoss(assignment="argmax"),
    "m2m-all-positive": ManyToManyLoss(roles=("overview", "style"), negatives="all", same_image="positive"),
    "m2m-hungarian": ManyToManyLoss(assignment="hungarian"),
    "m2m-hungarian-positive": ManyToManyLoss(assignment="hungarian", negatives="all", same_image="positive"),
    "m2m-groups": ManyToManyLoss(roles=("web", "style|overview")),
    "m2m-rest": ManyToManyLoss(roles=("web", "*")),
    "m2m-positive": ManyToManyLoss(roles=("overview",), same_image="positive"),
    "diversity": DiversityLoss(ceiling=-0.3),
    "diversity-idle": DiversityLoss(ceiling=0.9),
    "conditioned": TextConditionedLoss(),
    "conditioned-own": TextConditionedLoss(negatives="own", pool_temperature=0.3),
    "conditioned-all-minmax": TextConditionedLoss(negatives="all", weights="minmax", duplicates="negative"),
    "conditioned-sigmoid": TextConditionedLoss(kind="sigmoid", negatives="own"),
}
TEACHERS: dict[str, Any] = {
    "tgc": TgcLoss(),
    "tgc-scaled": TgcLoss(scale=0.0, duplicates="negative"),
    "distillation": DistillationLoss(),
    "distillation-sum": DistillationLoss(reduction="sum"),
    "distillation-image": DistillationLoss(sides="image"),
    "cosmos": CosmosLoss(),
    "cosmos-whole": CosmosLoss(whole=("overview", "web"), duplicates="negative"),
    "cosmos-whole-ignore": CosmosLoss(whole=("style",), contrast=0.5, distillation=2.0),
    "distillation-text": DistillationLoss(sides="text", reduction="sum"),
}
MATCHING: dict[str, Any] = {
    "itm": ItmLoss(),
    "itm-uniform": ItmLoss(sampling="uniform", duplicates="negative", seed=3),
    "itm-drawn": ItmLoss(negatives="none"),
    "imc-joint": ImcLoss(scores="joint"),
    "imc-joint-paper": ImcLoss(scores="joint", variant="paper"),
    "cmr-joint": CmrLoss(scores="joint"),
    "cmr-joint-max": CmrLoss(scores="joint", margin="max", upper=3.0),
}
FINE_GRAINED: dict[str, Any] = {
    "filip": FilipLoss(),
    "filip-sparc": FilipLoss(variant="sparc", negatives="all"),
    "filip-quarter": FilipLoss(keep=0.25, duplicates="negative"),
    "gloria": GloriaLoss(),
    "gloria-sparc": GloriaLoss(variant="sparc", negatives="all"),
    "gloria-mean": GloriaLoss(aggregate="mean", duplicates="negative", pair_scale=0.0),
    "mgca": MgcaLoss(temperature=0.3),
    "mgca-sparc": MgcaLoss(variant="sparc", control=True),
    "mgca-words": MgcaLoss(bidirectional=False, temperature=0.5),
    "prototypes": MgcaPrototypesLoss(epsilon=0.2),
    "prototypes-one": MgcaPrototypesLoss(epsilon=0.5, rounds=1, temperature=0.5),
    "dreamlip": DreamlipLoss(),
    "dreamlip-image": DreamlipLoss(rivals="image", sigma=None),
    "dreamlip-softmax": DreamlipLoss(weights="softmax"),
    "dreamlip-released": DreamlipLoss(patches_of="released"),
    "flair": FlairLoss(),
    "flair-all": FlairLoss(others="all", negatives="own"),
    "flair-negative": FlairLoss(duplicates="negative", negatives="own"),
    "llip": LlipLoss(),
    "llip-all": LlipLoss(negatives="all", duplicates="negative"),
    "llip-softmax": LlipLoss(kind="softmax", negatives="all"),
    "sparc-images": SparcLoss(rivals="images"),
    "sparc-both": SparcLoss(rivals="both", similarity="cosine", sigma=0.3, reduction="token"),
    "sparc-images-softmax": SparcLoss(rivals="images", weights="softmax", temperature=1.0),
    "sparc-bare-softmax": SparcLoss(weights="softmax", temperature=1.0),
    "sparc-cosine-softmax": SparcLoss(weights="softmax", similarity="cosine", temperature=0.2),
    "sparc-images-detached": SparcLoss(rivals="images", detach_weights=True, sigma=0.0),
}

NEGATIVES_AND_POSITIVES: dict[str, Any] = {
    "own": OwnNegativesLoss(),
    "own-fsc": OwnNegativesLoss(focal=2.0, label_smoothing=0.02),
    "own-negative": OwnNegativesLoss(focal=0.5, label_smoothing=0.3, duplicates="negative"),
    "own-smooth": OwnNegativesLoss(label_smoothing=0.1),
    "fsc-local": FscLocalLoss(),
    "fsc-local-sparse": FscLocalLoss(sparsify=True, detach_weights=False, start_token=True, duplicates="negative"),
    "fsc-local-softmax": FscLocalLoss(weights="softmax", detach_weights=False, words="mean", focal=0.0, label_smoothing=0.0),
    "paraphrases": ParaphrasesLoss(),
    "paraphrases-image": ParaphrasesLoss(finds="image"),
    "paraphrases-text": ParaphrasesLoss(finds="text", duplicates="negative"),
    "multi-positive": MultiPositiveLoss(),
    "multi-positive-sum": MultiPositiveLoss(positives="sum"),
    "multi-positive-negative": MultiPositiveLoss(duplicates="negative"),
}
TABLES = (CASES, MATCHING, TEACHERS, FINE_GRAINED, NEGATIVES_AND_POSITIVES)


def packaged() -> list[str]:
    """The names of all losses of the package, in the alphabet's order."""
    folder = Path(importlib.import_module("wholegrain.losses").__path__[0])
    return sorted(f.stem for f in folder.glob("[a-z]*.py") if f"class {class_name(f.stem)}" in f.read_text(encoding="utf-8"))


def class_name(stem: str) -> str:
    """``ce_rank`` -> ``CeRankLoss``."""
    return "".join(part.capitalize() for part in stem.split("_")) + "Loss"


def settings_of(loss: Any) -> dict[str, Any]:
    """The fewest settings that make this loss: those that are not their defaults and do not follow from the others."""
    if not is_dataclass(loss):
        return {}
    kind: Any = type(loss)
    found = {f.name: value for f in fields(loss) if (value := getattr(loss, f.name)) != _default(f)}
    for name in list(found):
        fewer = {key: value for key, value in found.items() if key != name}
        found = fewer if kind(**fewer) == loss else found
    return found


def label(name: str, settings: dict[str, Any]) -> str:
    """``imc variant=released``."""

    def short(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).lower()

    return " ".join([name, *(f"{key}={short(value)}" for key, value in settings.items())])


def variants(name: str, kind: Any) -> list[dict[str, Any]]:
    """The settings under which a loss is verified; the defaults come first.

    Chosen by hand where one of the ``TABLES`` has the loss, so that every setting is met; else every choice (a ``Literal`` or bool)
    is changed once.
    """
    by_hand = [loss for table in TABLES for loss in table.values() if type(loss) is kind]
    chosen = [settings_of(loss) for loss in by_hand] or list(_one_at_a_time(kind))
    return [{}, *(settings for settings in chosen if settings)]


def _one_at_a_time(kind: Any) -> Iterator[dict[str, Any]]:
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for f in fields(kind):
        hint = hints[f.name]
        choices = get_args(hint) if get_origin(hint) is Literal else (True, False) if hint is bool else ()
        for choice in choices:
            if choice != _default(f) and _default(f) is not MISSING:
                yield {f.name: choice}


def _default(f: Any) -> Any:
    return f.default_factory() if f.default is MISSING and f.default_factory is not MISSING else f.default

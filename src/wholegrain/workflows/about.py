"""What a model is: its towers and head with their parameters, what it reads, how it scores, and the training that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from wholegrain.errors import UserError
from wholegrain.report.entry import read_history
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.towers.base import Config
from wholegrain.towers.io import load_model, needs_tokenizer
from wholegrain.towers.model import Model
from wholegrain.workflows.export import run_of, training_of


@dataclass(frozen=True)
class Part:
    """A tower or the head.

    Attributes:
        name: such as ``image tower``.
        what: its architecture, as a phrase.
        width: of the vectors that it gives.
        parameters, trained: how many there are, and how many of them a training would change.
    """

    name: str
    what: str
    width: int
    parameters: int
    trained: int


@dataclass(frozen=True)
class About:
    """A model.

    Attributes:
        parts: towers and head.
        facts: what it reads and how it scores, as (name, phrase).
        training: what made it, if it comes from a run; the same.
    """

    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...]
    training: tuple[tuple[str, str], ...]


def about(spec: str) -> About:
    """Loads a model and describes it.

    Args:
        spec: as :func:`wholegrain.towers.io.load_model` takes it, or ``base``.

    Raises:
        UserError: there is no such model, or it is ``small``, which is nothing before it has data.
    """
    if needs_tokenizer(spec):
        raise UserError(f"{spec} starts from nothing, and its vocabulary comes from the data; look at a run that began with it, or at base")
    model, run = load_model(spec), run_of(spec)
    towers = (("image tower", model.image_tower), ("text tower", model.text_tower))
    parts = [_part(name, tower, _architecture(tower.config(), name), tower.width) for name, tower in towers]
    parts.append(_part("head", model.head, _head(model), model.width))
    training = {} if run is None else {"run": str(run), **training_of(read_history(run))}
    return About(tuple(parts), tuple(_facts(model)), tuple((key, _phrase(value)) for key, value in training.items()))


def _part(name: str, module: nn.Module, what: str, width: int) -> Part:
    numbers = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return Part(name, what, width, sum(n for n, _ in numbers), sum(n for n, learns in numbers if learns))


def _architecture(config: Config, side: str) -> str:
    kind, more = config["kind"], ""
    if (branches := config.get("branches") or config.get("mlp_branches")) is not None:
        more = f", {branches['count']} branches"
    if kind == "timm":
        return f"{config['name']} of timm{more}"
    if kind == "hf":
        hf = config["hf"]
        layers = hf.get("num_hidden_layers", hf.get("n_layers"))
        return f"{hf['model_type']} of Hugging Face, {layers} layers, pooled by {config['pool']}"
    if kind == "small":
        return f"the preset small, {_phrase(_of_side(config['small'], side))}{more}"
    cfg = config["model"]["vision_cfg" if side == "image tower" else "text_cfg"]
    if name := cfg.get("timm_model_name"):
        return f"{name} of timm, by open_clip{more}"
    form = "Vision Transformer" if side == "image tower" else "text transformer"
    if isinstance(cfg.get("layers"), list | tuple):
        form = "ResNet"
    sizes = {name: cfg[name] for name in ("layers", "width", "patch_size", "heads") if name in cfg}
    return f"{form} of open_clip, {_phrase(sizes)}{more}"


def _of_side(small: Mapping[str, object], side: str) -> dict[str, object]:
    names = ("image_layers", "patch", "stem", "pool") if side == "image tower" else ("text_layers", "reader")
    return {name: small[name] for name in names if name in small}


def _head(model: Model) -> str:
    """Its kind and settings, without widths, which stand elsewhere."""
    config = model.head.config()
    settings = {key: value for key, value in config.items() if key not in ("kind", "widths")}
    forms = f"{model.head.widths.image_projection} and {model.head.widths.text_projection} projection"
    return ", ".join(filter(None, (str(config["kind"]), forms, _phrase(settings))))


def _facts(model: Model) -> list[tuple[str, str]]:
    prepared, text, tokenizer = model.preprocess, model.text_tower, model.tokenizer
    way = {"crop": "shorter side to size, middle cropped", "squash": "squashed to a square"}[prepared.resize]
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (prepared.mean, prepared.std))
    padding = "padding is not read" if text.true_length else "padding is read, so texts are padded to the context"
    scored = "the cosine" if model.score is None else f"the joint score of the {model.head.kind} head"
    bias = "none" if model.bias is None else f"{model.bias.item():.4g}"
    return [
        ("pictures", f"{prepared.size} x {prepared.size}, {way}, {prepared.interpolation}"),
        ("mean; std", f"{mean}; {std}"),
        ("tokeniser", f"{_tokeniser(tokenizer)}, vocabulary {tokenizer.vocab_size:,}, context {text.context_length} ({padding})"),
        ("tuned", f"image {model.image_tower.tuned}, text {model.text_tower.tuned}"),
        ("pairs are scored by", scored),
        ("scale; bias", f"{model.scale.item():.4g}; {bias}"),
    ]


def _tokeniser(tokenizer: Tokenizer) -> str:
    return {"ClipTokenizer": "CLIP's own", "FileTokenizer": "tokenizer.json"}.get(type(tokenizer).__name__, type(tokenizer).__name__)


def _phrase(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_phrase(part)}" for key, part in value.items())
    return str(value) if not isinstance(value, Path) else value.name

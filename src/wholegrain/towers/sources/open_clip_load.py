"""Models of open_clip by name, tag, file, folder or from the Hub: fetched and built by open_clip, then taken apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import open_clip
from open_clip.model import CustomTextCLIP

from wholegrain.data.network import hub_or_cache, reachable, unfetched
from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.text.tokenizer import ClipTokenizer, FileTokenizer, Tokenizer
from wholegrain.towers.base import Config
from wholegrain.towers.bounds import first_line
from wholegrain.towers.model import Model
from wholegrain.towers.sources.hub import fetch_tokenizer, not_here
from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.open_clip_folder import LOCAL, read_stated, refuse_other_kinds
from wholegrain.towers.sources.weight_files import load_clip_weights, read_clip_weights


def load_open_clip(name: str, tag: str | None) -> Model:
    """A model of open_clip with its tokeniser and preprocessing, on the processor in fp32.

    Args:
        name: a built-in name, ``hf-hub:org/name`` or ``local-dir:PATH``.
        tag: a pretrained tag or a weights file, for built-in names; ``None`` gives random weights.

    Raises:
        UserError: what open_clip cannot make, what is not here and cannot be fetched, and what is not served.
    """
    try:
        clip, model_cfg, preprocess = _create(name, tag)
        tokenizer = _tokenizer(name, model_cfg["text_cfg"])
        pad_id = getattr(tokenizer, "pad_id", 0)
        image_tower, text_tower, head = split_open_clip(clip, model_cfg, pad_id)
        bias = None if clip.logit_bias is None else clip.logit_bias.item()
        prepared = _preprocess(name, preprocess)
        return Model(image_tower, text_tower, head, prepared, tokenizer, log_scale=clip.logit_scale.item(), bias=bias)
    except UserError:
        raise
    except Exception as error:  # open_clip and the hub raise whatever their parts raise
        source = f"{name}:{tag}" if tag else name
        raise UserError(
            f"{source} cannot be loaded ({first_line(error)}); check the name and the network, or give a folder"
        ) from error


def _preprocess(name: str, record: Config) -> Preprocess:
    size = record["size"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    resize = {"shortest": "crop", "squash": "squash"}.get(record["resize_mode"])
    if height != width or resize is None:
        wanted = f"{height}x{width} pictures resized by {record['resize_mode']!r}"
        raise UserError(f"{name} wants {wanted}, and only squares by crop or squash are served; choose another model")
    values = {"size": int(height), "resize": resize, "interpolation": record["interpolation"]}
    return Preprocess.from_json({**values, "mean": list(record["mean"]), "std": list(record["std"])})


def _tokenizer(name: str, text_cfg: Config) -> Tokenizer:
    context = int(text_cfg.get("context_length", 77))
    settings = text_cfg.get("tokenizer_kwargs") or {}
    source = text_cfg.get("hf_tokenizer_name")
    if not source:
        return ClipTokenizer(context, settings.get("clean", "lower"))
    if text_cfg.get("tokenizer_mode"):
        raise UserError(f"{name} has the tokeniser mode {text_cfg['tokenizer_mode']!r}, not served here; choose another model")
    folder = Path(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else fetch_tokenizer(source)
    clean = settings.get("clean", "whitespace")
    if settings.get("strip_sep_token"):
        # CLIPA turns the end token into padding: so there is none, and one position less for the text
        return FileTokenizer.from_folder(folder, context - 1, clean=clean, start="[CLS]")
    return FileTokenizer.from_folder(folder, context, clean=clean)


def _create(name: str, tag: str | None) -> tuple[CustomTextCLIP, Config, Config]:
    """open_clip's model, its configuration and its preprocessing record.

    Args:
        name: a built-in name, ``hf-hub:org/name`` or ``local-dir:PATH``.
        tag: a pretrained tag or a weights file, for built-in names; ``None`` gives random weights. The activation is the one that
            the weights were trained with, where the tag or the file says so.
    """
    folder = Path(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else None
    with _fetching(name, {}) if name.startswith("hf-hub:") else nullcontext():
        model_cfg = open_clip.get_model_config(name) if folder is None else read_stated(folder)
    if model_cfg is None:
        raise UserError(f"open_clip has no model {name!r}; see open_clip.list_models()")
    refuse_other_kinds(name, model_cfg)
    stated = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    file = Path(tag) if tag and not stated else None
    state, openai = read_clip_weights(file) if file is not None else ({}, False)
    # open_clip only warns where weights were trained with quick GELU and the name says plain GELU, as "ViT-B-32:openai" does
    quick = openai or bool(stated.get("quick_gelu", False)) or bool(model_cfg.get("quick_gelu", False))
    model_cfg["quick_gelu"] = quick
    fetched = bool(stated) or name.startswith("hf-hub:")
    with _fetching(name if tag is None else f"{name}:{tag}", stated) if fetched else nullcontext(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "QuickGELU mismatch")
        clip = open_clip.create_model(
            name,
            pretrained=None if file is not None else tag,
            precision="fp32",
            force_custom_text=True,
            force_quick_gelu=quick,
            require_pretrained=(tag is not None and file is None) or ":" in name,
        )
    assert isinstance(clip, CustomTextCLIP)
    if file is not None:
        load_clip_weights(clip, state, file)
    return clip, model_cfg, dict(open_clip.get_model_preprocess_cfg(clip))


@contextmanager
def _fetching(what: str, stated: Config) -> Iterator[None]:
    """While open_clip fetches weights, from the Hub or, for the few tags that are not there, from the address that it states."""
    url = "" if not stated or stated.get("hf_hub") else str(stated.get("url", ""))
    if url:
        cached = Path("~/.cache/clip").expanduser()  # open_clip's own
        if not (cached / Path(url).name).is_file() and not reachable(url):
            raise not_here(what, str(cached), url)
        yield
        return
    reached = True
    try:
        with hub_or_cache() as reached:
            yield
    except Exception as error:  # open_clip wraps what the hub raises
        if not reached and unfetched(error):
            raise not_here(what) from error
        raise

"""Models in and out: one loader for every kind of model, one complete folder to save into.

A saved model is a folder that needs nothing else, and gives back the same features bit for bit::

    model.json               towers, head, preprocessing, digests of weights and tokeniser, and the mark that ties it to its weights
    model.safetensors        every weight, in the type it had
    wholegrain_tokenizer.json, tokenizer.json

Nothing is unpickled: weights are safetensors, or what ``torch.load(weights_only=True)`` accepts. The same model gives the same bytes. Sizes that a
folder states are held against its weights before anything of that size is made (:mod:`wholegrain.towers.bounds`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from importlib import resources
from pathlib import Path

import open_clip
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import MachineError, UserError
from wholegrain.files import digest, read_json, sha256, shown
from wholegrain.structure import structure
from wholegrain.suggest import closest, nearest
from wholegrain.text.tokenizer import Tokenizer, load_tokenizer
from wholegrain.towers.base import Config, ImageTower, TextTower
from wholegrain.towers.bounds import build_on_meta, check_finite, check_numbers
from wholegrain.towers.convert import convert_head
from wholegrain.towers.heads.registry import HeadConfig, build_head
from wholegrain.towers.lora import plain_state
from wholegrain.towers.model import Model
from wholegrain.towers.positions import fitted, split_options
from wholegrain.towers.saved_model import AGAIN, MODEL_FILE, SavedModel, check_fits, check_unchanged
from wholegrain.towers.sources.hf_text import build_hf_text
from wholegrain.towers.sources.hub import from_hub, on_hub
from wholegrain.towers.sources.open_clip import build_open_clip_image, build_open_clip_text
from wholegrain.towers.sources.open_clip_folder import CONFIG_FILE as OPEN_CLIP_FILE
from wholegrain.towers.sources.open_clip_folder import LOCAL
from wholegrain.towers.sources.open_clip_load import load_open_clip
from wholegrain.towers.sources.pair import load_pair
from wholegrain.towers.sources.small import SmallConfig, SmallImageTower, small_model, small_text_tower
from wholegrain.towers.sources.timm import timm_tower
from wholegrain.towers.sources.transformers import CONFIG_FILE, FILES, kind_of, load_transformers
from wholegrain.towers.tensor_files import read_header, read_tensors, tensors_digest, uncompiled

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"


def load_model(
    spec: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    head: HeadConfig | str | None = None,
    context_length: int | None = None,
    positions: str | None = None,
    image_size: int | None = None,
) -> Model:
    """A model by name or path, in float32 on the CPU and in eval mode.

    Args:
        spec: one of

            * ``base``: the shipped base model of the scenes;
            * ``small``, or ``small:image_size=96,pool=class``: the from-scratch preset; needs ``tokenizer``;
            * ``ViT-B-32`` (random weights), ``ViT-B-32:openai`` (a tag of open_clip), ``ViT-B-32:FILE`` (a weights file, also
              OpenAI's own);
            * ``hf-hub:org/name``, or a folder: of open_clip, of transformers (CLIP, SigLIP; needs ``wholegrain[hf]``), or of
              :func:`save_model`;
            * a folder that :func:`save_model` wrote, a run that holds one in ``model/``, or ``RUN:last`` for a named checkpoint
              of a run;
            * ``pair.toml``: see :mod:`wholegrain.towers.sources.pair`.

            Behind it may stand ``,context=248``, ``,positions=interpolate`` and ``,image_size=336``.
        tokenizer: for ``small``; other models bring theirs.
        head: converts the head after loading (:func:`wholegrain.towers.convert.convert_head`).
        context_length, positions, image_size: a longer or shorter context, and another picture size, by interpolated positions; see
            :mod:`wholegrain.towers.positions`.

    Raises:
        UserError: an unknown name (with close ones), a broken or foreign folder, weights that do not fit or cannot be fetched.

    Example:
        >>> load_model("ViT-B-23")
        Traceback (most recent call last):
        wholegrain.errors.UserError: there is no model 'ViT-B-23'; did you mean ViT-B-32, ViT-S-32, ViT-M-32?
    """
    name, options = split_options(str(spec))
    model = fitted(
        _load(name, tokenizer),
        context=_whole(options, "context") if context_length is None else context_length,
        positions=positions or options.get("positions", "stretch"),
        image_size=_whole(options, "image_size") if image_size is None else image_size,
    )
    check_finite(model, str(spec))
    if head is not None:
        convert_head(model, head)
    return model.eval()


def _whole(options: dict[str, str], name: str) -> int | None:
    value = options.get(name)
    if value is not None and not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise UserError(f"{name} is {value[:40]!r}; it must be a whole number, such as 248")
    return None if value is None else int(value)


def needs_tokenizer(spec: str | Path) -> bool:
    """Whether :func:`load_model` wants a tokeniser for this spec (``small``)."""
    return str(spec).partition(":")[0] == "small"


def base_folder() -> Path:
    """Where the shipped base model lies: ``model.json``, ``model.safetensors``, the tokeniser and ``origin.json``."""
    return Path(str(resources.files("wholegrain") / "assets" / "base"))


def _load(spec: str, tokenizer: Tokenizer | None) -> Model:
    if needs_tokenizer(spec):
        return _load_small(spec, tokenizer)
    _check_name(spec)
    if spec.endswith(".toml"):
        return load_pair(spec)
    if spec == "base":
        return _load_saved(base_folder())
    if (folder := _saved_folder(spec)) is not None:
        return _load_saved(folder)
    if os.path.lexists(Path(spec) / OPEN_CLIP_FILE):
        return load_open_clip(f"{LOCAL}{spec}", None)
    if kind_of(spec) is not None:
        return load_transformers(spec)
    if Path(spec).is_dir():
        names = f"{MODEL_FILE}, {OPEN_CLIP_FILE} or transformers' config.json"
        raise UserError(f"{spec} holds no model; a model's folder has {names}, a run's has model/")
    if spec.startswith("hf-hub:"):
        return _load_hub(spec)
    name, _, tag = spec.partition(":")
    if name not in open_clip.list_models():
        raise UserError(_unknown(spec, name))
    if tag and tag not in (tags := open_clip.list_pretrained_tags_by_model(name)) and not Path(tag).is_file():
        raise UserError(f"{name} has no weights {tag!r} in open_clip; {closest(tag, tags)}")
    return load_open_clip(name, tag or None)


def _check_name(spec: str) -> None:
    """Refuses what cannot even be asked of a file system."""
    try:
        os.lstat(spec)
    except ValueError:  # a NUL byte, or half a surrogate pair
        raise UserError(f"there is no model {shown(spec)!r}, and no file can have that name; check it") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"there is no model {shown(spec)!r}, and no file can have so long a name; check it") from None


def _load_hub(spec: str) -> Model:
    """From the Hub or its cache; a repository may hold a folder of open_clip, one of :func:`save_model`, or one of transformers."""
    repository = spec.removeprefix("hf-hub:")
    if on_hub(repository, OPEN_CLIP_FILE) is None:
        if on_hub(repository, MODEL_FILE) is not None:
            return _load_saved(from_hub(repository, (MODEL_FILE, WEIGHTS_FILE, "*tokenizer.json")))
        if (config := on_hub(repository, CONFIG_FILE)) is not None and kind_of(config.parent) is not None:
            return load_transformers(from_hub(repository, FILES))
    return load_open_clip(spec, None)


def _unknown(spec: str, name: str) -> str:
    if "/" in spec or os.sep in spec or spec.startswith("."):
        return f"there is no folder or file {spec}; check the path"
    near = nearest(name, ["small", *open_clip.list_models()], 3)
    return f"there is no model {name!r}; {'did you mean ' + ', '.join(near) + '?' if near else 'see open_clip.list_models()'}"


def _load_small(spec: str, tokenizer: Tokenizer | None) -> Model:
    known = {f.name: type(f.default) for f in fields(SmallConfig)}
    settings: Config = {}
    for part in filter(None, spec.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise UserError(f"small has no setting {key!r}; {closest(key, known)}")
        if known[key] is int and not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise UserError(f"small: {key} is {value[:40]!r}; it must be a whole number")
        settings[key] = known[key](value)
    if tokenizer is None:
        raise UserError("the model 'small' starts from nothing and needs a tokeniser; train one on the data's captions")
    return small_model(SmallConfig(**settings), tokenizer)


def build_image_tower(config: Config) -> ImageTower:
    """The image tower of a saved configuration, with random weights."""
    config = dict(config)
    tune, branches, fixed = config.pop("tune", "all"), config.pop("branches", None), config.pop("fixed_batchnorm", False)
    streams = config.pop("mlp_branches", None)
    makers: dict[str, Callable[[], ImageTower]] = {
        "small": lambda: SmallImageTower(structure(config["small"], SmallConfig)),
        "timm": lambda: timm_tower(config["name"], config["image_size"], config["kwargs"], fixed_batchnorm=fixed),
        "open_clip": lambda: build_open_clip_image(config),
    }
    tower = makers[config["kind"]]()
    if branches is not None:
        tower.add_branches(**branches)
    if streams is not None:
        tower.add_mlp_branches(**streams)
    tower.tune(tune)
    return tower


def build_text_tower(config: Config) -> TextTower:
    """The text tower of a saved configuration, with random weights."""
    config = dict(config)
    tune, pad_id, true_length = config.pop("tune", "all"), config.pop("pad_id", 0), config.pop("true_length", True)
    makers: dict[str, Callable[[], TextTower]] = {
        "small": lambda: small_text_tower(structure(config["small"], SmallConfig), config["vocab_size"]),
        "hf": lambda: build_hf_text(config),
        "open_clip": lambda: build_open_clip_text(config, pad_id, true_length),
    }
    tower = makers[config["kind"]]()
    tower.tune(tune)
    return tower


def save_model(model: Model, folder: str | Path) -> None:
    """Writes a complete model; every file is written aside and renamed, ``model.json`` last.

    A folder whose writing was cut short between two renames is recognised on loading by a mark that both files carry.

    Raises:
        MachineError: the disk is full or refuses.
    """
    folder = Path(folder)
    weights = _weights(model)
    aside = folder / f".saving-{os.getpid()}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        model.tokenizer.save(aside)
        record: dict[str, object] = {
            "format": FORMAT,
            "image": model.image_tower.config(),
            "text": model.text_tower.config(),
            "head": model.head.config(),
            "bias": model.bias is not None,
            "preprocess": model.preprocess.to_json(),
            "weights": tensors_digest(weights),
            "files": {file.name: sha256(file) for file in sorted(aside.iterdir())},
        }
        record = json.loads(json.dumps(record))  # as it will be read
        record["mark"] = mark = digest(record)
        save_file(weights, aside / WEIGHTS_FILE, metadata={"mark": mark})
        (aside / MODEL_FILE).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        for file in sorted(aside.iterdir(), key=lambda f: f.name == MODEL_FILE):
            os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise MachineError(f"the model could not be written to {folder} ({error}); make room or choose another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in sorted(uncompiled(plain_state(model)).items())}


def _saved_folder(spec: str) -> Path | None:
    path = Path(spec)
    base, _, name = spec.rpartition(":")
    if path.is_dir():
        places = [path, path / "model", path / ".model.old"]  # the last one: of a run killed while it put a new model there
    elif base and Path(base).is_dir():
        run = Path(base)
        places = [p for top in (run, run / "checkpoints") for p in (top / name, top / name / "model")]
        places += [run / "model", run / ".model.old"] if name == "last" else []
    else:
        return None
    return next((place for place in places if os.path.lexists(place / MODEL_FILE)), None)


def _load_saved(folder: Path) -> Model:
    path, weights = folder / MODEL_FILE, folder / WEIGHTS_FILE
    record = read_json(path, SavedModel, AGAIN)
    if record["format"] != FORMAT:
        raise UserError(f"{path} has format {record['format']}, this version reads {FORMAT}; use the version that wrote it")
    header = read_header(weights, AGAIN)
    if header.metadata.get("mark") != record["mark"]:
        raise UserError(f"{weights} was not written together with its {MODEL_FILE}; {AGAIN}")
    check_unchanged(record, folder)
    check_numbers({side: record[side] for side in ("image", "text", "head", "preprocess")}, str(path), AGAIN)
    try:
        prepared, tokenizer = Preprocess.from_json(record["preprocess"]), load_tokenizer(folder)
    except UserError as error:
        raise UserError(str(error) if str(folder) in str(error) else f"{path}: {error}; {AGAIN}") from None
    most = 2 * sum(map(math.prod, header.shapes.values())) + 10**7  # some networks are built with parts that are then left out

    def build() -> Model:
        towers = build_image_tower(record["image"]), build_text_tower(record["text"])
        model = Model(*towers, build_head(record["head"]), prepared, tokenizer)
        if record["bias"]:
            model.add_bias()
        return model

    check_fits(build_on_meta(build, most, str(path), AGAIN), header, weights)
    return _filled(build(), record, weights)


def _filled(model: Model, record: SavedModel, path: Path) -> Model:
    # copies, because tensors inside the file's buffer are not aligned, and then sums may round in another order
    state = {key: value.clone() for key, value in read_tensors(path, AGAIN).items()}
    if record.get("weights", None) not in (None, tensors_digest(state)):
        raise UserError(f"{path} cannot be loaded, its weights are not as they were saved; {AGAIN}")
    model.load_state_dict(state, assign=True)
    return model

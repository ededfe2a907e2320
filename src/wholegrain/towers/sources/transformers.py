"""CLIP and SigLIP as transformers saves them, read into the towers that open_clip's models have here; exactly, not by wrapping.

So everything that those towers can do they can do here: class-token and MLP branches, patches, true length, recomputation, export.

* ``CLIPModel``: open_clip's Vision Transformer and text transformer.
* ``SiglipModel`` (SigLIP, and SigLIP 2 at a fixed resolution): timm's Vision Transformer with attention pooling and open_clip's text
  transformer without a mask. Both with the tanh form of GELU, as the checkpoints say; open_clip's own configurations of SigLIP use the
  exact form, so the same weights by way of open_clip differ in the third digit.

A text tower of SigLIP reads its padding and pools the last position; the parity test finds that, and every text is padded to the context.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.files import read_json
from wholegrain.text.tokenizer import FileTokenizer
from wholegrain.towers.base import Config, ImageTower
from wholegrain.towers.bounds import build_bounded, build_on_meta, check_numbers, first_line
from wholegrain.towers.heads.base import Head, PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources import weight_names
from wholegrain.towers.sources.hf_library import transformers_for
from wholegrain.towers.sources.open_clip import OpenClipImageTower, OpenClipTextTower, build_open_clip_image, text_net
from wholegrain.towers.sources.timm import timm_tower
from wholegrain.towers.tensor_files import read_tensors, read_weights, safetensors_of

if TYPE_CHECKING:
    from transformers import CLIPTextConfig, CLIPVisionConfig, SiglipTextConfig, SiglipVisionConfig

CONFIG_FILE = "config.json"
AGAIN = "get the complete model"
KINDS = ("clip", "siglip")
FILES = (
    CONFIG_FILE,
    "model.safetensors",
    "model*.safetensors",
    "model.safetensors.index.json",
    "*processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
"""What is needed of a repository on the Hub."""
TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
_SIGLIP_TIMM = {  # width, layers, heads, MLP width, patch -> timm's name without the picture size
    (768, 12, 12, 3072, 16): "vit_base_patch16_siglip",
    (768, 12, 12, 3072, 32): "vit_base_patch32_siglip",
    (1024, 24, 16, 4096, 16): "vit_large_patch16_siglip",
    (1152, 27, 16, 4304, 14): "vit_so400m_patch14_siglip",
    (1152, 27, 16, 4304, 16): "vit_so400m_patch16_siglip",
    (1536, 40, 16, 6144, 16): "vit_giantopt_patch16_siglip",
}


def kind_of(folder: str | Path) -> str | None:
    """``model_type`` of a transformers folder, ``None`` for any other.

    Raises:
        UserError: there is a ``config.json`` that cannot be read.
    """
    path = Path(folder) / CONFIG_FILE
    if not os.path.lexists(path):
        return None
    kind = read_json(path, Config, AGAIN).get("model_type")
    return kind if isinstance(kind, str) else None


def load_transformers(folder: str | Path) -> Model:
    """A two-tower model from a folder with ``config.json``, weights, tokeniser and preprocessor; nothing is downloaded.

    Features and logits equal those of transformers to rounding (1e-5).

    Raises:
        UserError: another kind of model, files that are missing, settings that the towers here do not have.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    try:
        return _loaded(folder, kind)
    except UserError:
        raise
    except Exception as error:  # what a configuration of the right types, but of impossible values, gives rise to
        raise UserError(f"{folder} cannot be loaded ({type(error).__name__}: {first_line(error)}); {AGAIN}") from error


def _loaded(folder: Path, kind: str | None) -> Model:
    if kind == "siglip2":
        raise UserError(f"{folder} is a SigLIP 2 of variable resolution (NaFlex), not served here; use one of fixed resolution")
    if kind not in KINDS:
        raise UserError(
            f"{folder} holds a model of the type {kind!r}; of transformers' two-tower models {' and '.join(KINDS)} can be read"
        )
    config = _read_config(folder, kind)
    state = _read_state(folder)
    preprocess = _read_preprocess(folder)
    size, wanted = preprocess.size, _square(folder, config.vision_config.image_size)
    if size != wanted:
        raise UserError(
            f"{folder}: the preprocessor makes pictures of {size} pixels and the image tower reads {wanted}; correct one"
        )
    tokenizer = _read_tokenizer(folder, kind, int(config.text_config.max_position_embeddings))
    parts = _clip_parts if kind == "clip" else _siglip_parts
    image_tower, text_tower, head = parts(folder, config, state, tokenizer.pad_id)
    log_scale = _number(folder, state, "logit_scale")
    bias = _number(folder, state, "logit_bias") if kind == "siglip" else None
    return Model(image_tower, text_tower, head, preprocess, tokenizer, log_scale=log_scale, bias=bias)


def _most(folder: Path, state: dict[str, Tensor]) -> tuple[int, str, str]:
    """How many numbers the towers of a folder may have, and where their sizes stand."""
    return 2 * sum(value.numel() for value in state.values()) + 10**7, str(folder / CONFIG_FILE), AGAIN


def _clip_parts(
    folder: Path, config: Any, state: dict[str, Tensor], pad_id: int
) -> tuple[ImageTower, OpenClipTextTower, Head]:
    vision, text, shared = config.vision_config, config.text_config, int(config.projection_dim)
    image_tower = clip_image_tower(folder, vision, state, shared)
    end = text.eos_token_id
    if not isinstance(end, int):
        raise UserError(f"{folder}: eos_token_id is {end!r}; the text tower needs one end token")
    # 2 is transformers' mark of old files, whose end token is the greatest one
    pool = {"pool_type": "argmax"} if end in (2, text.vocab_size - 1) else {"pool_type": "eos", "eos_id": end}
    text_tower = _text_tower(folder, text, shared, state, pad_id, pool)
    head = PlainHead(Widths(image_tower.width, text_tower.width, shared))
    for side, name in ((head.image, "visual_projection"), (head.text, "text_projection")):
        _fill(side, state, [(("weight",), (f"{name}.weight",))], folder)
    return image_tower, text_tower, head


def clip_image_tower(folder: Path, vision: CLIPVisionConfig, state: dict[str, Tensor], shared: int = 512) -> OpenClipImageTower:
    """The image tower of ``CLIPModel`` or ``CLIPVisionModel``.

    Args:
        folder: for sentences: where it is from.
        state: its weights, whose names begin with ``vision_model.``.
        shared: width of the model's projection, which is no part of the tower.

    Raises:
        UserError: settings that the tower here does not have, weights that are missing.
    """
    sizes = {
        "image_size": _square(folder, vision.image_size),
        "patch_size": _square(folder, vision.patch_size),
        "head_width": vision.hidden_size // vision.num_attention_heads,
    }
    quick, act = _activation(folder, vision.hidden_act)
    built = {"embed_dim": shared, "quick_gelu": quick, "vision_cfg": {**sizes, **_transformer(vision), **act}, "text_cfg": {}}
    image_tower = build_bounded(lambda: build_open_clip_image({"kind": "open_clip", "model": built}), *_most(folder, state))
    assert isinstance(image_tower, OpenClipImageTower)
    _fill(image_tower.net, state, weight_names.clip_image(vision.num_hidden_layers), folder)
    return image_tower


def _siglip_parts(
    folder: Path, config: Any, state: dict[str, Tensor], pad_id: int
) -> tuple[ImageTower, OpenClipTextTower, Head]:
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head or vision.layer_norm_eps != 1e-6:
        part = "no attention pooling" if not vision.vision_use_head else f"layer_norm_eps {vision.layer_norm_eps}"
        raise UserError(f"{folder}: its image tower has {part}, which the tower here does not; choose another model")
    made = _siglip_timm(folder, vision)
    build_on_meta(lambda: timm_tower(*made), *_most(folder, state))
    image_tower = timm_tower(*made)
    _fill(image_tower.net, state, weight_names.siglip_image(vision.num_hidden_layers), folder)
    settings = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    text_tower = _text_tower(folder, text, int(text.projection_size), state, pad_id, settings)
    head = PlainHead(Widths(image_tower.width, text_tower.width, int(text.projection_size), "identity", "linear_bias"))
    _fill(head.text, state, [((part,), (f"text_model.head.{part}",)) for part in weight_names.PARTS], folder)
    return image_tower, text_tower, head


def _siglip_timm(folder: Path, vision: SiglipVisionConfig) -> tuple[str, int, Config]:
    """timm's name, picture size and keywords."""
    size, patch = _square(folder, vision.image_size), _square(folder, vision.patch_size)
    shape = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size, patch)
    kwargs: Config = {}
    known = _SIGLIP_TIMM.get(shape)
    if known is None:
        width, depth, heads, inner, _ = shape
        kwargs = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "mlp_ratio": _ratio(inner, width)}
    quick, act = _activation(folder, vision.hidden_act)
    if quick or act:
        kwargs["act_layer"] = "quick_gelu" if quick else "gelu_tanh"
    import timm

    name = f"{known or 'vit_base_patch16_siglip'}_{size}"
    if not timm.is_model(name):
        name = next(n for n in timm.list_models(f"{known or 'vit_base_patch16_siglip'}_*") if "gap" not in n)
    return name, size, kwargs


def _text_tower(
    folder: Path, text: CLIPTextConfig | SiglipTextConfig, shared: int, state: dict[str, Tensor], pad_id: int, settings: Config
) -> OpenClipTextTower:
    quick, act = _activation(folder, text.hidden_act)
    sizes = {"context_length": text.max_position_embeddings, "vocab_size": text.vocab_size, "heads": text.num_attention_heads}
    text_cfg: Config = {**sizes, **_transformer(text), **act, **settings}
    built = {"embed_dim": shared, "quick_gelu": quick, "vision_cfg": {}, "text_cfg": text_cfg}
    net = build_bounded(lambda: text_net(built), *_most(folder, state))
    assert isinstance(net, TextTransformer)
    net.text_projection = None
    _fill(net, state, weight_names.text(text.num_hidden_layers), folder)
    return OpenClipTextTower(net, {"kind": "open_clip", "model": built}, pad_id)


def _transformer(config: CLIPTextConfig | CLIPVisionConfig | SiglipTextConfig) -> Config:
    """The sizes that both towers have, in open_clip's names."""
    found = {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": _ratio(config.intermediate_size, config.hidden_size),
    }
    return found if config.layer_norm_eps == 1e-5 else {**found, "norm_kwargs": {"eps": config.layer_norm_eps}}


def _ratio(inner: int, width: int) -> float:
    """A ratio whose product with the width, cut to a whole number, is the MLP's width."""
    return inner / width if inner % width == 0 else (inner + 0.5) / width


def _activation(folder: Path, name: str) -> tuple[bool, Config]:
    """open_clip's ``quick_gelu`` and ``act_kwargs``."""
    if name == "quick_gelu":
        return True, {}
    if name == "gelu":
        return False, {}
    if name in TANH:
        return False, {"act_kwargs": {"approximate": "tanh"}}
    raise UserError(f"{folder}: the activation {name!r} is not served here; choose a model with quick_gelu or gelu")


def _square(folder: Path, size: Any) -> int:
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) != 1:
        raise UserError(f"{folder}: pictures or patches of {size} are not square; choose another model")
    return int(sides.pop())


def _read_config(folder: Path, kind: str) -> Any:
    transformers = transformers_for(str(folder))
    check_numbers(read_json(folder / CONFIG_FILE, Config, AGAIN), str(folder / CONFIG_FILE), AGAIN)
    try:
        reader = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}[kind]
        return reader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers' checks raise many things
        raise UserError(f"{folder / CONFIG_FILE} cannot be read ({first_line(error)}); get it again") from error


def _fill(net: nn.Module, state: dict[str, Tensor], pairs: list[weight_names.Pair], folder: Path) -> None:
    net.load_state_dict(weight_names.converted(state, net, pairs, str(folder)))


def _number(folder: Path, state: dict[str, Tensor], name: str) -> float:
    if name not in state:
        raise UserError(f"{folder} lacks the weight {name}; get the complete model")
    if state[name].numel() != 1:
        raise UserError(f"{folder}: the weight {name} is not a single number; {AGAIN}")
    return state[name].item()


def _read_state(folder: Path) -> dict[str, Tensor]:
    """All weights, in float32."""
    files = safetensors_of(folder, AGAIN)
    if files:
        state: dict[str, object] = {key: value for file in files for key, value in read_tensors(file, AGAIN).items()}
    elif os.path.lexists(folder / "pytorch_model.bin"):
        state = read_weights(folder / "pytorch_model.bin")
    else:
        raise UserError(f"{folder} holds no weights (model.safetensors); {AGAIN}")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    wrong = next((key for key in state if key not in tensors), None)
    if wrong is not None:
        raise UserError(f"{folder}: {wrong} in its weights is no tensor; {AGAIN}")
    return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in tensors.items()}


def _read_preprocess(folder: Path) -> Preprocess:
    record = _preprocess_record(folder)
    size, crop = record.get("size", 224), record.get("crop_size", 224)
    if isinstance(size, dict):
        side, squash = (size["shortest_edge"], False) if "shortest_edge" in size else (size.get("height"), True)
        square = "shortest_edge" in size or size.get("height") == size.get("width")
    else:
        side, squash, square = size, not record.get("do_center_crop", True), True
    side_cropped = crop.get("height") if isinstance(crop, dict) else crop
    cropped = not squash and record.get("do_center_crop", True)
    filters = {2: "bilinear", 3: "bicubic"}
    if not isinstance(side, int) or not isinstance(record.get("resample", 3), int):
        side = None
    fits = square and side and (squash or (cropped and side == side_cropped)) and record.get("do_resize", True)
    if not fits or record.get("resample", 3) not in filters or not record.get("do_normalize", True):
        raise UserError(
            f"{folder}: its preprocessor ({json.dumps({k: record.get(k) for k in ('size', 'crop_size', 'resample')})}) is neither "
            "a crop to a square nor a squash to one; choose another model"
        )
    assert side is not None
    values = {"size": int(side), "resize": "squash" if squash else "crop", "interpolation": filters[record.get("resample", 3)]}
    moments = {name: record[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in record}
    return Preprocess.from_json({**values, **moments})


def _preprocess_record(folder: Path) -> Config:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if os.path.lexists(folder / name):
            record = read_json(folder / name, Config, AGAIN)
            check_numbers(record, str(folder / name), AGAIN)
            record = record.get("image_processor", record)
            if isinstance(record, dict) and ("size" in record or "image_mean" in record):
                return record
    raise UserError(f"{folder} does not say how pictures are prepared (preprocessor_config.json); get the complete model")


def _read_tokenizer(folder: Path, kind: str, context: int) -> FileTokenizer:
    stated = folder / "tokenizer_config.json"
    record = read_json(stated, Config, AGAIN) if os.path.lexists(stated) else {}
    name = str(record.get("tokenizer_class", ""))
    if not os.path.lexists(folder / "tokenizer.json"):
        return _built_tokenizer(folder, kind, context)
    # what these classes do in Python, before their tokenizer.json
    clean = "canonicalize" if name.startswith("SiglipTokenizer") else "lower" if name.startswith("Siglip2Tokenizer") else ""
    return FileTokenizer.from_folder(folder, context, clean=clean)


def _built_tokenizer(folder: Path, kind: str, context: int) -> FileTokenizer:
    """From ``vocab.json`` and ``merges.txt``, as old CLIP folders have them."""
    if kind != "clip" or not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
        raise UserError(f"{folder} holds no tokenizer.json; save its tokeniser with transformers' fast class, or get the file")
    from transformers import CLIPTokenizer

    made = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return FileTokenizer(made.backend_tokenizer, context, pad_id=int(made.pad_token_id))

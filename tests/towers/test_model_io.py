"""The model, and models in and out of folders."""

import json
import math
import pickle

import open_clip
import pytest
import torch
from house_models import CONFIG, SPEC, TEXTS, TOKENIZER, assert_same, open_clip_folder, small, with_timm
from safetensors.torch import load_file

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import MachineError, UserError
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers import HeadConfig, Model, convert_head, load_model, needs_tokenizer, save_model
from wholegrain.towers import io as towers_io
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.sources.hf_text import HfTextTower
from wholegrain.towers.sources.small import SmallConfig, small_model
from wholegrain.towers.sources.timm import timm_tower


def tuned() -> Model:
    model = small()
    model.add_bias()
    model.image_tower.tune("last:1")
    model.text_tower.tune("none")
    return model


VARIANTS = {
    "plain": small,
    "sparc": lambda: convert_head(small(), "sparc"),
    "branches": lambda: convert_head(small(), HeadConfig("branches", branches=3)),
    "readout": lambda: convert_head(small(), HeadConfig("branches", branches=2, source="readout")),
    "tuned": tuned,
    "timm": lambda: with_timm("test_efficientnet", pad_type="same"),
    "timm-branches": lambda: convert_head(with_timm("test_vit"), HeadConfig("branches", branches=2, legacy_plus_one=True)),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_saved_model_comes_back_bit_for_bit(name, tmp_path):
    model = VARIANTS[name]()
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert_same(model, again)
    assert not again.training
    save_model(again, tmp_path / "m")  # over itself
    assert_same(model, load_model(tmp_path / "m"))
    assert [p.name for p in (tmp_path / "m").iterdir() if p.name.startswith(".")] == []


def test_saving_keeps_number_types(tmp_path):
    model = small()
    model.image_tower.bfloat16()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert {n: p.dtype for n, p in again.named_parameters()} == {n: p.dtype for n, p in model.named_parameters()}
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_runs_and_their_checkpoints_load(tmp_path):
    early, late = small(), small()
    with torch.no_grad():
        late.log_scale.add_(1)
    save_model(late, tmp_path / "run/model")
    save_model(early, tmp_path / "run/checkpoints/step-10/model")
    assert_same(load_model(tmp_path / "run"), late)
    assert_same(load_model(f"{tmp_path}/run:last"), late)
    assert_same(load_model(f"{tmp_path}/run:step-10"), early)
    save_model(early, tmp_path / "run/last")
    assert_same(load_model(f"{tmp_path}/run:last"), early)


def test_open_clip_folder_gives_open_clips_numbers_and_preprocessing(tmp_path):
    clip = open_clip_folder(tmp_path / "c")
    model = load_model(tmp_path / "c")
    assert model.preprocess == Preprocess(32, "squash", "bilinear", (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    assert model.text_tower.true_length
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = model.tokenizer.encode(TEXTS)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.preprocess.mean, model.preprocess.std))
    with torch.no_grad():
        image = clip.encode_image((pixels / 255 - mean) / std)
        text = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS))
        seen, read, scale, bias = model(pixels, tokens.tokens_NL, tokens.length_N)
        torch.testing.assert_close(seen.pooled_BD, image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(read.pooled_ND, text, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scale, clip.logit_scale.exp())
    assert bias is None
    save_model(convert_head(model, HeadConfig("branches", branches=2)), tmp_path / "saved")
    assert_same(model, load_model(tmp_path / "saved"))


def test_a_tower_that_sees_padding_is_saved_as_such(tmp_path):
    open_clip_folder(tmp_path / "c", no_causal_mask=True, pool_type="last")
    model = load_model(tmp_path / "c")
    assert not model.text_tower.true_length
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert not again.text_tower.true_length
    assert_same(model, again)


def test_a_built_in_name_gives_random_weights_and_its_own_statistics(monkeypatch):
    tiny = {"vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}, "embed_dim": 8}
    tiny["text_cfg"] = {"context_length": 9, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", tiny)
    model = load_model("Tiny")
    assert model.preprocess == Preprocess(32)
    assert model.tokenizer.encode(["long " * 20]).tokens_NL.shape == (1, 9)
    torch.manual_seed(7)
    first = load_model("Tiny", head="sparc")
    torch.manual_seed(7)
    assert_same(first, load_model("Tiny", head="sparc"))


def test_hf_towers_are_saved_without_their_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    text = HfTextTower(transformers.BertModel(config, add_pooling_layer=False), "mean", 12)
    text.tune("none")
    image = timm_tower("test_resnet", 64)
    model = Model(image, text, PlainHead(Widths(image.width, 16, 8)), Preprocess(64), TOKENIZER)
    save_model(model, tmp_path)
    assert_same(model, load_model(tmp_path))


def test_small_by_name():
    torch.manual_seed(0)
    model = load_model(SPEC, tokenizer=TOKENIZER)
    assert_same(model, small())
    assert needs_tokenizer(SPEC)
    assert needs_tokenizer("small")
    assert not needs_tokenizer("ViT-B-32")
    with pytest.raises(UserError, match="needs a tokeniser"):
        load_model("small")
    with pytest.raises(UserError, match="no setting 'width_of_image'"):
        load_model("small:width_of_image=3", tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="whole number"):
        load_model("small:patch=big", tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ViT-B-23", "did you mean ViT-B-32"),
        ("smal", "did you mean small"),
        ("runs/none", "no folder or file runs/none"),
        ("ViT-B-32:openia", "openai"),
        ("pair.toml", "does not exist"),
    ],
)
def test_unknown_names(spec, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        load_model(spec)


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        load_model(tmp_path)
    save_model(small(), tmp_path / "a")
    save_model(convert_head(small(), "sparc"), tmp_path / "b")
    (tmp_path / "b/model.safetensors").replace(tmp_path / "a/model.safetensors")
    with pytest.raises(UserError, match="not written together"):
        load_model(tmp_path / "a")
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "b")
    save_model(small(), tmp_path / "a")
    path = tmp_path / "a/model.json"
    record = json.loads(path.read_text())
    record["image"]["small"]["image_width"] = 64
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(tmp_path / "a")
    record["format"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="format 99"):
        load_model(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_model(tmp_path / "a")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    open_clip_folder(tmp_path / "c")
    (tmp_path / "c/open_clip_model.safetensors").unlink()
    with (tmp_path / "c/open_clip_pytorch_model.bin").open("wb") as file:
        pickle.dump({"state_dict": Trap()}, file)
    torch.save({"x": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(UserError):
        load_model(tmp_path / "c")
    with pytest.raises(UserError, match="cannot be read as weights"):
        timm_tower("test_resnet", 64, weights=tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    model = small()
    save_model(model, tmp_path / "m")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(towers_io, "save_file", full)
    with pytest.raises(MachineError, match="No space left"):
        save_model(convert_head(small(), "sparc"), tmp_path / "m")
    assert_same(model, load_model(tmp_path / "m"))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "model.json",
        "model.safetensors",
        "tokenizer.json",
        "wholegrain_tokenizer.json",
    ]


def test_weights_of_compiled_blocks_carry_plain_names(tmp_path):
    model = small()
    plain = {k: v.clone() for k, v in model.state_dict().items()}
    model.image_tower.net.blocks[0] = torch.compile(model.image_tower.net.blocks[0])
    save_model(model, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == plain.keys()


def test_scale_bias_and_raw_features():
    model = small()
    torch.testing.assert_close(model.scale, torch.tensor(1 / 0.07))
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.scale.item() == 100.0
    model.add_bias()
    assert model.bias.item() == -10.0
    assert math.isclose(model.scale.item(), 10.0, rel_tol=1e-5)
    with torch.no_grad():
        model.bias.fill_(-3.0)
    model.add_bias()
    assert model.bias.item() == -3.0
    convert_head(model, "sparc")
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    raw = model.raw_images(pixels)
    chosen = torch.tensor([2, 0])
    torch.testing.assert_close(model.project_images(raw.select(chosen)).pooled_BD, model.encode_images(pixels[chosen]).pooled_BD)
    tokens = TOKENIZER.encode(TEXTS)
    read = model.raw_texts(tokens.tokens_NL, tokens.length_N)
    torch.testing.assert_close(
        model.project_texts(read.select(torch.tensor([1]))).pooled_ND,
        model.encode_texts(tokens.tokens_NL[1:], tokens.length_N[1:]).pooled_ND,
    )


def test_clip_tokenizer_survives_in_a_model_folder(tmp_path):
    model = small_model(SmallConfig(**{**CONFIG.__dict__, "context": 20}), ClipTokenizer(20))
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again.tokenizer, ClipTokenizer)
    assert_same(model, again)

"""CLIP and SigLIP of transformers: the same features and logits, in the towers that open_clip's models have here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, pixels, save_transformers, transformers_clip, transformers_siglip
from torch.nn.functional import normalize

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers import io as towers_io

transformers = pytest.importorskip("transformers")
ALL = frozenset({"patches", "tokens"})


def compare(theirs, model, folder):
    """Features and logits of both, by the folder's own tokeniser and preprocessor."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(TEXTS, padding="max_length", return_tensors="pt")
    tokens = model.tokenizer.encode(TEXTS)
    length = int(tokens.length_N.max())
    assert torch.equal(given.input_ids[:, :length], tokens.tokens_NL)
    images = pixels(model.preprocess.size)
    seen = transformers.AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt").pixel_values
    torch.testing.assert_close(model.preprocess.normalise(images), seen, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        image, text, scale, bias = model(images, tokens.tokens_NL, tokens.length_N, ALL)
        close(image.pooled_BD, theirs.get_image_features(pixel_values=seen).pooler_output)
        close(text.pooled_ND, theirs.get_text_features(**given).pooler_output)
        cosine = normalize(image.pooled_BD, dim=-1) @ normalize(text.pooled_ND, dim=-1).T
        close(scale * cosine + (0 if bias is None else bias), theirs(pixel_values=seen, **given).logits_per_image)


def close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu_pytorch_tanh"}},
        {"text_config": {"layer_norm_eps": 1e-3}, "vision_config": {"layer_norm_eps": 1e-2, "patch_size": 16}},
    ],
)
def test_clip(settings, tmp_path):
    theirs = transformers_clip(**settings)
    model = load_model(save_transformers(theirs, tmp_path / "m"))
    compare(theirs, model, tmp_path / "m")
    assert model.text_tower.true_length
    assert model.bias is None


def test_files_from_before_the_end_token_was_right(tmp_path):
    theirs = transformers_clip(text_config={"eos_token_id": 2})  # means: the greatest id ends a text
    model = load_model(save_transformers(theirs, tmp_path / "m"))
    last = theirs.config.text_config.vocab_size - 1
    tokens_NL = torch.tensor([[5, 2, 6, last, 0, 0], [4, 2, 7, 8, 5, last]])
    with torch.no_grad():
        theirs_ND = theirs.get_text_features(input_ids=tokens_NL).pooler_output
        close(model.encode_texts(tokens_NL, torch.tensor([4, 6])).pooled_ND, theirs_ND)


def test_siglip_with_its_padding_its_bias_and_its_scale(tmp_path):
    theirs = transformers_siglip()
    model = load_model(save_transformers(theirs, tmp_path / "m"))
    compare(theirs, model, tmp_path / "m")
    assert model.text_tower.true_length is False
    assert model.scale > 100
    assert model.bias is not None
    assert model.preprocess == Preprocess(32, "squash", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_siglip_of_a_size_that_timm_knows_takes_its_name():
    from wholegrain.towers.sources.transformers import _siglip_timm

    config = transformers.SiglipVisionConfig(image_size=384, hidden_act="gelu")
    assert _siglip_timm("x", config) == ("vit_base_patch16_siglip_384", 384, {})
    config = transformers.SiglipVisionConfig(image_size=448)
    assert _siglip_timm("x", config) == ("vit_base_patch16_siglip_224", 448, {"act_layer": "gelu_tanh"})


@pytest.mark.parametrize("make", [transformers_clip, transformers_siglip])
def test_what_was_loaded_can_do_what_other_models_can(make, tmp_path):
    theirs = make()
    model = load_model(save_transformers(theirs, tmp_path / "m"))
    save_model(model, tmp_path / "saved")
    compare(theirs, load_model(tmp_path / "saved"), tmp_path / "m")
    model.image_tower.tune("last:1")
    model.text_tower.tune("last:1")
    images, tokens = pixels(), model.tokenizer.encode(TEXTS)
    with torch.no_grad():
        before = model.encode_images(images).pooled_BD
        assert model.encode_images(images, ALL).patches_BPD.shape == (3, 16, model.width)
        assert model.encode_texts(tokens.tokens_NL, tokens.length_N, ALL).tokens_NLD.shape[2] == model.width
        convert_head(model, HeadConfig("branches", branches=3, noise=0.0))
        branches = model.encode_images(images).branches_BHD
    assert branches.shape == (3, 3, model.width)
    close(branches[:, 1], before)  # branches start as the base's vector


def test_weights_in_shards_in_half_precision_and_as_a_torch_file(tmp_path):
    theirs = transformers_clip()
    folder = save_transformers(theirs, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(state) // 2
    names = {key: f"model-0000{1 + (i >= half)}-of-00002.safetensors" for i, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    compare(theirs, load_model(folder), folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00002"):
        load_model(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="no weights"):
        load_model(folder)
    old = {**state, "text_model.embeddings.position_ids": torch.arange(12)[None]}
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in old.items()}, folder / "pytorch_model.bin"
    )
    compare(theirs.half().float(), load_model(folder), folder)


def test_a_clip_tokeniser_of_two_files(tmp_path):
    folder = save_transformers(transformers_clip(text_config={"vocab_size": 20}), tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    letters = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "ab", "abc</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\nab c</w>\n")
    tokens = load_model(folder).tokenizer.encode(["ABC  a", "c"])
    assert tokens.tokens_NL.tolist() == [[8, 7, 3, 9], [8, 5, 9, 9]]  # padded with the end token, as OpenAI's folders say
    assert tokens.length_N.tolist() == [4, 3]
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_model(folder)


@pytest.mark.parametrize("name", ["SiglipTokenizer", "Siglip2Tokenizer"])
def test_what_siglips_tokenisers_do_before_their_file(name, tmp_path):
    folder = save_transformers(transformers_siglip(), tmp_path / "m")
    record = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**record, "tokenizer_class": name}))
    engine = json.loads((folder / "tokenizer.json").read_text())
    engine["normalizer"] = None  # neither lowers the case in its file
    (folder / "tokenizer.json").write_text(json.dumps(engine))
    tokenizer = load_model(folder).tokenizer
    plain = tokenizer.encode(["a red cup"]).tokens_NL
    assert torch.equal(tokenizer.encode(["A RED cup"]).tokens_NL, plain)
    assert torch.equal(tokenizer.encode(["a red, cup!"]).tokens_NL, plain) is (name == "SiglipTokenizer")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"model_type": "blip"}, "'blip'"),
        ({"vision_config": {**transformers_clip().config.vision_config.to_dict(), "hidden_act": "relu"}}, "relu"),
        ({"vision_config": {**transformers_clip().config.vision_config.to_dict(), "image_size": 48}}, "48"),
        ({"projection_dim": 21}, "projection"),
        ({"text_config": {**transformers_clip().config.text_config.to_dict(), "vocab_size": 99}}, "token_embedding"),
    ],
)
def test_what_does_not_fit_is_named(change, words, tmp_path):
    folder = save_transformers(transformers_clip(), tmp_path / "m")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(UserError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    "record",
    [
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 40}},
        {"size": {"height": 32, "width": 32}, "resample": 0},
    ],
)
def test_preprocessing_that_is_neither_crop_nor_squash(record, tmp_path):
    folder = save_transformers(transformers_clip(), tmp_path / "m")
    (folder / "preprocessor_config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="neither a crop"):
        load_model(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32, "image_mean": [0.1, 0.2, 0.3]}))
    assert load_model(folder).preprocess == Preprocess(32, mean=(0.1, 0.2, 0.3))  # as old files write it


def test_from_the_hub(tmp_path, monkeypatch):
    folder = save_transformers(transformers_clip(), tmp_path / "m")
    monkeypatch.setattr(towers_io, "on_hub", lambda repository, name: found if (found := folder / name).is_file() else None)
    monkeypatch.setattr(towers_io, "from_hub", lambda repository, patterns: folder)
    compare(transformers_clip(), load_model("hf-hub:some/clip"), folder)
    own = load_model(folder)
    for file in folder.iterdir():
        file.unlink()
    save_model(own, folder)
    assert load_model("hf-hub:some/own").width == own.width

"""Pairs of towers from a TOML file."""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from wholegrain.errors import UserError
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers import load_model, save_model
from wholegrain.towers.sources.pair import load_pair

TOML = """
[image]
timm = "test_efficientnet"
weights = "cnn.safetensors"
kwargs = { pad_type = "same" }
tune = "none"
[text]
hf = "bert"
context = 20
tune = "last:1"
[shared]
width = 24
[preprocess]
size = 64
resize = "squash"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", pad_type="same")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, folder / "cnn.safetensors")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=40, **sizes)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "bert")
    train_tokenizer(["a red cup on a table"], 60, 20).save(folder / "bert")
    (folder / "bert/wholegrain_tokenizer.json").unlink()
    return folder


@pytest.fixture
def pair(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("WHOLEGRAIN_WEIGHTS", str(sources))
    path = tmp_path / "pair.toml"
    path.write_text(TOML)
    return path


def test_a_pair_holds_its_sources_weights(pair, sources, tmp_path):
    model = load_model(pair)
    stored = load_file(sources / "cnn.safetensors")
    for name, value in model.image_tower.net.state_dict().items():
        assert torch.equal(value, stored[name].to(value.dtype)), name
    bert = load_file(sources / "bert/model.safetensors")
    own = model.text_tower.net.state_dict()
    assert all(torch.equal(own[k.removeprefix("bert.")], v) for k, v in bert.items())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.image_frozen
    assert not model.text_frozen
    assert model.preprocess.size == 64
    assert model.width == 24
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert model.encode_images(pixels, frozenset({"patches"})).patches_BPD.shape == (2, 4, 24)
    tokens = model.tokenizer.encode(["a red cup"])
    first = model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert torch.equal(again.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND, first)
    assert again.image_frozen


def test_files_beside_the_toml_come_first(pair, sources, tmp_path):
    stored = load_file(sources / "cnn.safetensors")
    save_file({k: v * 0 for k, v in stored.items()}, tmp_path / "cnn.safetensors")
    assert all(not p.any() for p in load_pair(pair).image_tower.net.parameters())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[image]", "[picture]\nx = 1\n[image]", 'unknown key "picture"'),
        ('tune = "none"', 'tuned = "none"', r'unknown key "image.tuned" \(did you mean "tune"\?\)'),
        ('tune = "none"', 'tune = "some"', "'last:N'"),
        ("width = 24", 'width = "wide"', '"shared.width": \'wide\' is not a whole number'),
        ("size = 64", "", 'no key "preprocess.size"'),
        ('timm = "test_efficientnet"', 'timm = "test_efficientnets"', "did you mean test_efficientnet"),
        ('weights = "cnn.safetensors"', 'weights = "no.safetensors"', "WHOLEGRAIN_WEIGHTS"),
        ('timm = "test_efficientnet"', 'timm = "test_efficientnet_ln"', "do not fit"),
        ("context = 20", "context = 50", "40 positions"),
        ("context = 20", 'pool = "max"', "not one of mean, first"),
        ("[shared]", "[shared", "not valid TOML"),
        ('pad_type = "same"', "pad_type = -1", r"pair\.toml: timm's test_efficientnet with the kwargs"),
        ('pad_type = "same"', 'checkpoint_path = "x.pth"', "'checkpoint_path', which fetches or runs something"),
        ('pad_type = "same"', "in_chans = 1000000000", "in_chans"),
        ("width = 24", "width = 1000000000", "width is 1,000,000,000"),
        ("size = 64", "size = 1000000", "size must be from 1"),
        ("context = 20", "context = 1000000000", "context"),
        ("[text]", "[text]\nx = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_faults_are_named(pair, old, new, words):
    assert old in TOML
    pair.write_text(TOML.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        load_pair(pair)


@pytest.mark.skipif("WHOLEGRAIN_DATA" not in os.environ, reason="WHOLEGRAIN_DATA names no folder with weights/")
def test_mobilenet_and_minilm(tmp_path, monkeypatch):
    monkeypatch.setenv("WHOLEGRAIN_WEIGHTS", str(Path(os.environ["WHOLEGRAIN_DATA"]) / "weights"))
    path = tmp_path / "pair.toml"
    path.write_text(
        TOML.replace("test_efficientnet", "mobilenetv2_100")
        .replace("cnn.safetensors", "mobilenet_v2_imagenet.safetensors")
        .replace("bert", "all-MiniLM-L6-v2")
        .replace("size = 64", "size = 160")
    )
    model = load_model(path)
    raw = model.raw_images(torch.zeros(1, 3, 160, 160, dtype=torch.uint8), frozenset({"patches"}))
    assert raw.patches_BPV.shape == (1, 25, 1280)
    tokens = model.tokenizer.encode(["A man is playing a guitar.", "Someone plays guitar.", "The stock market fell today."])
    text = torch.nn.functional.normalize(model.raw_texts(tokens.tokens_NL, tokens.length_N).pooled_NV, dim=-1)
    similar = text @ text.T
    assert similar[0, 1] > 0.7
    assert similar[0, 2] < 0.2

"""``wholegrain inspect`` of a model: what it prints is what the model is."""

import re

import pytest
import torch
from house_models import open_clip_folder, small
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.cli import main as cli
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model


def inspect(capsys, *args, code=0):
    """What the command prints, with runs of white space as one space."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *map(str, args)])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return " ".join((said.err if code else said.out).split())


def numbers(said):
    """(parameters, trained) of each part, from the table's last two columns."""
    rows = re.findall(r"(image tower|text tower|head|all) │[^│]*│[^│]*│ *([\d,]+) │ *([\d,]+)", said)
    return {name: (int(count.replace(",", "")), int(trained.replace(",", ""))) for name, count, trained in rows}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def counted(module):
    return sum(p.numel() for p in module.parameters()), sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parts_and_their_parameters(tmp_path, capsys):
    model = convert_head(small(), HeadConfig("branches", branches=3, source="readout"))
    model.add_bias()
    model.image_tower.tune("last:1")
    model.text_tower.tune("none")
    save_model(model, tmp_path / "model")
    said = inspect(capsys, tmp_path / "model")
    found = numbers(said)
    parts = {"image tower": model.image_tower, "text tower": model.text_tower, "head": model.head}
    assert {name: found[name] for name in parts} == {name: counted(part) for name, part in parts.items()}
    assert 0 < found["image tower"][1] < found["image tower"][0]
    assert found["text tower"][1] == 0
    assert found["all"] == tuple(sum(counted(part)[n] for part in parts.values()) for n in (0, 1))
    for words in (
        "the preset small, image_layers 2, patch 8",
        "branches, linear and linear projection, branches 3, source readout",
        "pictures: 32 x 32,",
        f"vocabulary {model.tokenizer.vocab_size}, context 12",
        "tuned: image last:1, text none",
        "scale; bias: 10; -10",
        "pairs are scored by: the cosine",
    ):
        assert words in said, words
    assert "Training" not in said


def test_a_model_of_open_clip(tmp_path, capsys):
    open_clip_folder(tmp_path / "made")
    said = inspect(capsys, tmp_path / "made")
    assert "Vision Transformer of open_clip, layers 2, width 32, patch_size 8" in said
    assert "text transformer of open_clip, layers 2, width 16, heads 2" in said
    assert "squashed to a square, bilinear" in said
    assert "mean; std: 0.5, 0.4, 0.3; 0.2, 0.2, 0.3" in said
    assert "CLIP's own, vocabulary 49,408, context 77 (padding is not read)" in said
    assert "context 30" in inspect(capsys, f"{tmp_path / 'made'},context=30")
    model = convert_head(load_model(tmp_path / "made"), "filip")
    save_model(model, tmp_path / "filip")
    assert "the joint score of the filip head" in inspect(capsys, tmp_path / "filip")


def test_a_pair(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=40, **sizes)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    small().tokenizer.save(tmp_path / "bert")
    (tmp_path / "bert/wholegrain_tokenizer.json").unlink()
    (tmp_path / "pair.toml").write_text(
        '[image]\ntimm = "test_efficientnet"\ntune = "none"\n[text]\nhf = "bert"\ncontext = 20\n[preprocess]\nsize = 64\n'
    )
    said = inspect(capsys, tmp_path / "pair.toml")
    assert "test_efficientnet of timm" in said
    assert "bert of Hugging Face, 2 layers, pooled by mean" in said
    assert numbers(said)["image tower"][1] == 0


def test_a_run_says_what_made_its_model(tmp_path, capsys):
    dataset = make_dataset(tmp_path / "photos", count=16)
    torch.manual_seed(0)
    recipe = make_recipe("clip", "--optimiser.steps", "2", "--seed", "7")
    train(recipe, dataset, make_model(dataset), tmp_path / "run", device="cpu", quiet=True)
    said = inspect(capsys, tmp_path / "run")
    for words in (f"run: {tmp_path / 'run'}", "recipe: clip", "seed: 7", "batch: 8", "steps taken: 2", dataset.content_hash):
        assert words in said, words


def test_what_exists_decides(tmp_path, capsys):
    dataset = make_dataset(tmp_path / "both", count=8)
    save_model(small(), tmp_path / "both")
    assert "source:" in inspect(capsys, dataset.folder, "--no-sheet"), "manifest.json makes it a data set"
    (tmp_path / "empty").mkdir()
    assert "neither a data set (manifest.json) nor a model" in inspect(capsys, tmp_path / "empty", code=2)
    assert "did you mean ViT-B-32" in inspect(capsys, "ViT-B-23", code=2)
    assert "vocabulary comes from the data" in inspect(capsys, "small", code=2)
    assert "preset small" in inspect(capsys, "base")

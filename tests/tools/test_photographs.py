"""The comparison on photographs: what frozen parts make is the same from memory, recipes fit their methods, nothing that is kept has a name in it."""

import csv
import io

import pyarrow as pa
import pytest
import torch
from results import frozen_once as module
from results.frozen_once import frozen_once
from results.photographs import CONTROLS, METHODS, numbered, recipe_of, some_rows
from tiny_models import TEXTS, TOKENIZER, pixels

from wholegrain.data.preprocess import Preprocess
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.compare import compare
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.hf_text import HfTextTower
from wholegrain.towers.sources.timm import timm_tower

NEEDS = frozenset({"patches", "tokens"})


@pytest.fixture(scope="module")
def pair():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=20, initializer_range=0.3, **sizes)
    text = HfTextTower(transformers.BertModel(config, add_pooling_layer=False), "mean", 12)
    image = timm_tower("mobilenetv2_035", 64, {"pad_type": "same"})
    for norm in (part for part in image.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    image.tune("none")
    text.tune("last:1")
    return Model(image, text, PlainHead(Widths(image.width, 16, 8)), Preprocess(64), TOKENIZER).eval()


def texts_of(model, texts):
    tokens = TOKENIZER.encode(texts)
    return model.raw_texts(tokens.tokens_NL, tokens.length_N, NEEDS)


def test_frozen_parts_give_what_they_gave_and_are_run_once(pair, tmp_path, monkeypatch):
    images, texts = pair.raw_images(pixels(64), NEEDS), texts_of(pair, TEXTS)
    with frozen_once(pair, tmp_path):
        assert torch.allclose(pair.raw_images(pixels(64), NEEDS).patches_BPV, images.patches_BPV, atol=5e-3)
        pair.raw_images(pixels(64, 5)[:3], frozenset())
        found = texts_of(pair, TEXTS[::-1])
        found.pooled_NV.sum().backward()
    runs = []
    monkeypatch.setattr(module.Kept, "add", lambda *given: runs.append(given))
    with frozen_once(pair, tmp_path):  # another process, from the files
        again = pair.raw_images(pixels(64), frozenset())
        assert again.patches_BPV is None
        assert torch.allclose(again.pooled_BV, images.pooled_BV, atol=5e-3)
        read = texts_of(pair, TEXTS)
    assert not runs
    for seen in (found.select(torch.tensor([2, 1, 0])), read):
        assert torch.allclose(seen.pooled_NV, texts.pooled_NV, atol=1e-5)
        assert torch.allclose(seen.tokens_NLV[texts.mask_NL], texts.tokens_NLV[texts.mask_NL], atol=1e-5)
    layers = pair.text_tower.stages()
    assert layers[-1].output.dense.weight.grad.abs().sum() > 0
    assert layers[-2].output.dense.weight.grad is None
    assert torch.equal(texts_of(pair, TEXTS).pooled_NV, texts.pooled_NV)  # nothing stays in place of the towers


@pytest.mark.parametrize("method", [*METHODS, *CONTROLS])
def test_every_method_trains_the_last_layer_alone_by_its_own_losses(method):
    _, packaged, overrides = (METHODS | CONTROLS)[method]
    recipe = recipe_of(method, packaged, overrides)
    assert (recipe.model.tune_text, recipe.data.crop_scale) == ("last:1", (1.0, 1.0))
    assert bool(recipe.data.negatives.count) == (method.startswith(("ce_clip", "negclip", "wholegrain")))
    drawn = {role for draw in recipe.data.captions for role in draw.roles}
    assert drawn == ({"-phrase", "phrase"} if method == "wholegrain" else {"-phrase"})
    of_phrases = [term.loss for term in recipe.terms if "phrase" in term.roles]
    assert of_phrases == (["text_conditioned"] if method == "wholegrain" else [])


def test_what_is_kept_pairs_items_and_names_none():
    def made(values):
        items = pa.table({
            "item": ["a.jpg:dog", "a.jpg:cat", "b.jpg:dog"], "group": ["small", "large", "small"], "cluster": ["a.jpg", "a.jpg", "b.jpg"],
            "overall": [True] * 3, "hit": values, "phrase": ["a dog", "a cat", "a dog"],
        })  # fmt: skip
        return numbered(TaskResult("pointing", "", (Figure("hit", sum(values) / 3, 0.0, 1.0, 3, 0.1),), items))

    kept = made([1.0, 0.0, 1.0])
    assert set(kept.items.column_names) == {"item", "group", "cluster", "overall", "hit"}
    assert kept.items["cluster"].to_pylist() == ["p0", "p0", "p1"]
    assert compare(kept, made([0.0, 0.0, 1.0]), "hit").value == pytest.approx(1 / 3)


def test_one_caption_a_photo_is_the_first_one_and_the_choice_is_made_on_val(tmp_path):
    rows = [(f"{split}{photo}.jpg", f"caption {n}", split) for split in ("train", "val", "test") for photo in range(3) for n in range(2)]
    table = tmp_path / "captions.csv"
    table.write_text("filepath,caption,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    found = {name: list(csv.DictReader(io.StringIO(text))) for name, text in some_rows(table).items()}
    assert [(row["filepath"], row["caption"]) for row in found["one"]] == [(f"train{n}.jpg", "caption 0") for n in range(3)]
    assert {row["split"] for row in found["choose"]} == {"val"}
    assert len(found["choose"]) == 6

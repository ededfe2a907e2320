"""Read-outs: known answers, each against its formula written out in float64, what a model is read out by unasked, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, Worded, record, vector
from open_clip_towers import clip_and_config
from torch.nn.functional import cosine_similarity, gelu

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.evaluation.read_outs.head_nouns import head_noun, head_tokens
from wholegrain.evaluation.read_outs.registry import READ_OUTS, default_read_outs, looks, read_outs_named
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.statistics.compare import compare
from wholegrain.evaluation.suite import evaluate
from wholegrain.evaluation.tasks.grounding import grounding
from wholegrain.features import TextFeatures
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers import convert_head
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.small import SmallConfig, small_model

SIZES = SmallConfig(image_size=32, image_width=32, image_layers=2, heads=2, text_width=24, text_layers=1, context=12, width=16)
TOKENIZER = ClipTokenizer(12)
PHRASES = [Phrase("a red cup"), Phrase("a blue hatlet left of a cup"), Phrase("a hat of a cup", 5, 14)]
HEADS = ["cup", "hatlet", "cup"]
PIXELS = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
ROWS = [[0, 1], [2], [1, 2, 0]]


def model_with(head="plain", std=0.3, **sizes):
    """A small model with this head, every weight drawn anew: nothing is zero, or one, by chance."""
    torch.manual_seed(0)
    model = convert_head(small_model(SmallConfig(**{**SIZES.__dict__, **sizes}), TOKENIZER), head).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += std * torch.randn_like(parameter)
    return model


def maps_of(model, name):
    (read_out,) = read_outs_named(model, [name])
    (look,), grid = looks([read_out], PIXELS)
    asked = read_out.ask(PHRASES)
    found = read_out.maps(look, asked, ROWS)
    assert grid == (4, 4)
    assert [tuple(m.shape) for m in found] == [(len(rows), 16) for rows in ROWS]
    everything = read_out.all_maps(look, asked, 3)
    for b, rows in enumerate(ROWS):
        torch.testing.assert_close(everything[b].T[rows], found[b])
    return found


def features64(model, needs=("patches", "tokens")):
    tokens = model.tokenizer.encode([phrase.text for phrase in PHRASES])
    with torch.no_grad():
        image = model.encode_images(PIXELS, frozenset(needs)).map(torch.Tensor.double)
        text = model.encode_texts(tokens.tokens_NL, tokens.length_N, frozenset(needs))
    return image, text.map(lambda rows: rows.double() if rows.is_floating_point() else rows)


def by_formula(value):
    """Maps by a function of (picture, phrase) that gives ``[P]``."""
    return [torch.stack([value(b, n) for n in rows]).float() for b, rows in enumerate(ROWS)]


def tokens_of(n):
    """The places of a head noun's tokens in a row, by counting the word's own tokens."""
    text, word = PHRASES[n].text, HEADS[n]
    before = TOKENIZER.encode([text[: text.index(word, PHRASES[n].start)].rstrip()]).length_N.item() - 1  # without the end token
    return list(range(before, before + TOKENIZER.encode([word]).length_N.item() - 2))


def assert_maps(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_a_phrases_head_noun_and_its_tokens():
    assert [p.text[slice(*head_noun(p))] for p in PHRASES] == HEADS
    prompt = Phrase.filled("a photo of a {}.", "traffic light")
    assert prompt.text[slice(*head_noun(prompt))] == "light"
    assert Phrase.filled("{} in a photo", "hat").text == "hat in a photo"
    rows = TOKENIZER.encode([phrase.text for phrase in PHRASES])
    mask = torch.arange(rows.tokens_NL.shape[1]) < rows.length_N[:, None]
    assert [row.nonzero().flatten().tolist() for row in head_tokens(TOKENIZER, PHRASES, mask)] == [tokens_of(n) for n in range(3)]
    assert any(len(tokens_of(n)) > 1 for n in range(3))  # sub-words are met


def test_a_noun_that_was_cut_off_leaves_all_tokens():
    class Nothing:
        def word_spans(self, text):
            return []

    mask = torch.tensor([[True, True, False]])
    assert torch.equal(head_tokens(Nothing(), [Phrase("a cup")], mask), mask)


def test_pooled_is_the_cosine():
    model = model_with()
    image, text = features64(model)
    expected = by_formula(lambda b, n: cosine_similarity(image.patches_BPD[b], text.pooled_ND[n][None]))
    assert_maps(maps_of(model, "pooled"), expected)


def test_token_is_the_mean_dot_product_of_the_nouns_tokens_and_token_cosine_their_cosine():
    model = model_with()
    image, text = features64(model)

    def mean(similarity):
        return by_formula(
            lambda b, n: sum(similarity(image.patches_BPD[b], text.tokens_NLD[n, m]) for m in tokens_of(n)) / len(tokens_of(n))
        )

    assert_maps(maps_of(model, "token"), mean(lambda patches, token: (patches * token).sum(1)))
    assert_maps(maps_of(model, "token_cosine"), mean(lambda patches, token: cosine_similarity(patches, token[None])))


def test_h_v_goes_through_the_heads_layer():
    model = model_with("sparc")
    head, (_, text) = model.head, features64(model)
    with torch.no_grad():
        raw = model.raw_images(PIXELS, frozenset({"patches"})).patches_BPV
        through = raw + head.global_out(gelu(head.global_in(raw)))
        patches = head.image(through).double()
    assert_maps(maps_of(model, "h_v"), by_formula(lambda b, n: cosine_similarity(patches[b], text.pooled_ND[n][None])))
    assert not torch.allclose(maps_of(model, "h_v")[0], maps_of(model, "pooled")[0], atol=1e-2)


@pytest.mark.parametrize(("head", "need"), [("flair", "slots"), ("cosmos", "cross")])
def test_attention_is_what_the_heads_texts_attend_to(head, need):
    model = model_with(head)
    image, text = features64(model, (need, "patches", "tokens"))

    def weights(b, n):
        each = [
            (image.keys_BGSE[b, g] @ text.query_NGE[n, g]).exp() / (image.keys_BGSE[b, g] @ text.query_NGE[n, g]).exp().sum()
            for g in range(image.keys_BGSE.shape[1])
        ]
        return (sum(each) / len(each))[:16]

    assert_maps(maps_of(model, "attention"), by_formula(weights))


def test_attention_of_sparc_and_of_pacl_are_weights_of_their_own_values():
    model = model_with("sparc")
    values = maps_of(model, "token")

    def of_row(row):
        scaled = (row - row.min()) / (row.max() - row.min())
        kept = torch.where(scaled < 1 / 16, 0.0, scaled)
        return kept / kept.sum()

    assert_maps(maps_of(model, "attention"), [torch.stack([of_row(row) for row in m]) for m in values])
    model = model_with("pacl")
    exponentials = [(m.double() / 0.1).exp() for m in maps_of(model, "pooled")]
    assert_maps(maps_of(model, "attention"), [(e / e.sum(1, keepdim=True)).float() for e in exponentials])


def test_read_outs_of_one_model_share_one_pass_of_the_tower():
    model, calls = model_with("sparc"), []
    model.image_tower.register_forward_hook(lambda *_: calls.append(1))
    together = read_outs_named(model, ["pooled", "token", "attention", "gradient", "pooled"])
    assert [read_out.name for read_out in together] == ["pooled", "token", "attention", "gradient"]
    seen, _ = looks(together, PIXELS)
    assert len(calls) == 1
    for read_out, look in zip(together, seen, strict=True):
        alone = maps_of(model, read_out.name)
        assert all(map(torch.equal, read_out.maps(look, read_out.ask(PHRASES), ROWS), alone)), read_out.name


def class_token_clip():
    clip, config = clip_and_config(
        text={"context_length": 12, "vocab_size": TOKENIZER.vocab_size, "width": 24, "heads": 2, "layers": 1}
    )
    image, text, head = split_open_clip(clip, config, 0)
    return Model(image, text, head, Preprocess(size=32), TOKENIZER).eval()


def test_models_state_what_they_were_trained_for():
    stated = {"plain": "pooled", "sparc": "token", "filip": "token_cosine", "mgca": "token_cosine", "pacl": "pooled"}
    stated |= {"flair": "attention", "cosmos": "attention", "fusion": "pooled"}
    assert {head: model_with(head).read_out for head in stated} == stated
    assert model_with(pool="class", places="added").read_out == class_token_clip().read_out == "gradient"
    assert all(name in READ_OUTS for name in stated.values())
    branches = model_with("branches")
    assert branches.read_out == "gradient"  # of class tokens; but none is there to be differentiated for
    assert [read_out.name for read_out in default_read_outs(branches)] == ["pooled"]
    assert [read_out.name for read_out in default_read_outs(model_with("sparc"), ["token"])] == ["pooled", "token"]
    assert [read_out.name for read_out in default_read_outs(WholeAndGrain(model_with("cosmos")))] == ["pooled", "attention"]


def test_what_a_model_cannot_be_read_out_by_is_said():
    plain, fake = model_with(), FakeModel(vector, vector)
    for model, name, words in (
        (plain, "h_v", "layer h_v"),
        (plain, "attention", "head whose texts weigh patches.*'plain'"),
        (model_with("llip"), "attention", "'llip'"),
        (fake, "attention", "is unknown"),
        (fake, "token", "where words are"),
        (fake, "gradient", "this library's models"),
        (model_with("branches"), "gradient", "branches"),
    ):
        with pytest.raises(NotSupportedError, match=words):
            read_outs_named(model, [name])
    with pytest.raises(UserError, match=r"no read-out 'tokens'.*token"):
        read_outs_named(plain, ["tokens"])
    with pytest.raises(UserError, match="No read-out is named"):
        read_outs_named(plain, [])
    with pytest.raises(NotSupportedError, match="no patch"):
        looks(read_outs_named(fake, ["pooled"]), PIXELS)


def test_texts_without_tokens_are_refused():
    class Untold(FakeModel):
        def encode_texts(self, tokens_NL, length_N, needs=frozenset()):
            return TextFeatures(torch.ones(len(tokens_NL), 8))

    model = Untold(vector, vector)
    model.tokenizer.word_spans = lambda text: []
    with pytest.raises(NotSupportedError, match="token vectors"):
        read_outs_named(model, ["token"])[0].ask(PHRASES)


def worded_pictures(count=10):
    """Two nouns on two of 16 patches each; a phrase is "a red NOUN", and every patch of the picture is a bit red."""
    rng, records, places = np.random.default_rng(0), [], {}
    for n in range(count):
        regions = []
        for name, cell in zip(("cup", "hat"), rng.permutation(16)[:2], strict=True):
            y, x = divmod(int(cell), 4)
            regions.append(((8.0 * x, 8.0 * y, 8.0 * x + 8, 8.0 * y + 8), f"a red {name}", ()))
            places[n, int(cell)] = name
        records.append(record(n, ["x"], regions=regions, size=(32, 32)))

    def image_of(key):
        n = int(key.removeprefix("key"))
        patches = torch.stack([vector("red", 64) * 0.2 + vector(places.get((n, p), f"{n} ground {p}"), 64) for p in range(16)])
        return {"pooled_BD": patches.mean(0), "patches_BPD": patches, "grid": (4, 4)}

    return FakeDataset(records), Worded(image_of)


def test_grounding_gives_a_read_out_its_own_figures_and_items():
    data, model = worded_pictures()
    found = grounding(model, data)
    assert found.metrics["token/hit_own"] == 1
    assert found.metrics["token/hit_other"] == 0
    assert found.metrics["hit_own"] < 0.5
    assert found.figure("token/hit_own").chance == found.figure("hit_own").chance == 1 / 16
    assert found.figure("token/hit_own").shuffled < 0.6
    assert found.figure("token/hit_own").low > 0.5
    assert "token/centre_hit" not in found.metrics  # the middle has no read-out
    assert "token, the dot product" in found.protocol
    rows = found.items.to_pylist()
    assert [(row["group"], row["overall"]) for row in rows] == [("", True)] * 20 + [("token", False)] * 20
    assert all(row["best"] == int(np.argmax(row["map"])) for row in rows)
    mine = [row["hit_own"] for row in rows if row["group"] == "token"]
    assert found.metrics["token/hit_own"] == pytest.approx(np.mean(mine))


def test_a_read_outs_figures_are_compared_item_by_item():
    data, model = worded_pictures()
    first, other = grounding(model, data), grounding(model, data, read_outs=["token"], seed=1)
    assert compare(first, other, "token/hit_own").value == 0
    rows = {row["item"]: row for row in first.items.to_pylist() if row["group"] == "token"}
    assert {item: row["map"] for item, row in rows.items()} == {row["item"]: row["map"] for row in other.items.to_pylist()}


def test_grounding_takes_the_read_outs_that_are_named():
    data, model = worded_pictures()
    usual = grounding(model, data)
    (alone,) = evaluate(model, data, tasks="grounding", settings={"grounding": {"read_outs": ("pooled",)}})
    assert {figure.name: figure for figure in alone.figures} == {f.name: f for f in usual.figures if "/" not in f.name}
    (cosine,) = evaluate(model, data, tasks="grounding", settings={"grounding": {"read_outs": ("token_cosine",)}})
    assert {figure.name.partition("/")[0] for figure in cosine.figures} == {"token_cosine"}
    with pytest.raises(UserError, match="h_v"):
        grounding(model, data, read_outs=["h_v"])


def test_the_pooled_maps_are_those_of_one_product_a_picture_bit_for_bit():
    """As they were before there were other read-outs: the stored results must stay what they are."""
    data, model = worded_pictures()
    rows = [row for row in grounding(model, data).items.to_pylist() if row["group"] == ""]
    for n in range(10):
        phrases = [region.phrase for region in data.record(f"key{n:05d}").regions]
        text = torch.nn.functional.normalize(torch.stack([model.text_of(phrase) for phrase in phrases]), dim=-1)
        patches = torch.nn.functional.normalize(model.image_of(f"key{n:05d}")["patches_BPD"], dim=-1)
        expected = text @ patches.T
        assert [row["map"] for row in rows if row["cluster"] == f"key{n:05d}"] == expected.tolist()

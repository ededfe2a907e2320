"""CS-CLIP is a recipe of two NegCLIP terms; what is its own are units of captions and their false versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import lines
from tiny_training import COLOURS, SIZE, make_dataset, make_model, make_recipe, picture, train
from torch.nn.functional import cross_entropy, normalize

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, caption_id, content_key
from wholegrain.data.scenes.twins import edits_between
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import CaptionDraw, DataRecipe, NegativeDraw
from wholegrain.text.words.units import unit_and_foil
from wholegrain.training.loading.draw import draw_texts
from wholegrain.training.loading.streams import stream

TEXT = "There is a red cup left of a blue plate near a door."


@pytest.mark.parametrize(
    ("false", "unit", "foil"),
    [
        ("There is a green cup left of a blue plate near a door.", "a red cup", "a green cup"),
        ("There is a red cup right of a blue plate near a door.", "a red cup left of a blue plate", "a red cup right of a blue plate"),
        ("There is a blue cup left of a red plate near a door.", "a red cup left of a blue plate", "a blue cup left of a red plate"),
        ("There is a red cup left of a blue plate near a gate.", "a door", "a gate"),
    ],
)
def test_a_unit_has_whole_noun_phrases_at_its_ends(false, unit, foil):
    assert unit_and_foil(TEXT, edits_between(TEXT, false)) == (unit, foil)


def test_where_no_phrase_follows_and_what_has_no_unit():
    assert unit_and_foil("A dog runs.", [(6, 10, "runs", "sleeps")]) == ("A dog runs", "A dog sleeps")
    assert unit_and_foil(TEXT, []) is None
    assert unit_and_foil("a cup.", [(5, 6, ".", "!")]) is None  # the same words
    assert unit_and_foil(TEXT, [(11, 14, "blue", "green")]) is None  # this is not what stands there
    assert unit_and_foil(TEXT, [(11, 14, "red", "green"), (11, 18, "red cup", "mug")]) is None


FALSE = {
    "attribute": TEXT.replace("red", "green"),
    "relation": TEXT.replace("left", "right"),
    "object": TEXT.replace("door", "gate"),
}
RECORD = Record("k", "k.png", (4, 4), captions=(Caption("a", TEXT, "web"),))
ROWS = {("k", "a"): [Negative("k", "a", kind, text, edits_between(TEXT, text)) for kind, text in FALSE.items()]}
WHOLE, UNITS = CaptionDraw(("web",)), CaptionDraw(("web",), 2, units=True, name="unit")
KINDS = {kind: number for number, kind in enumerate(FALSE)}


def drawn(position, *draws, rows=ROWS, **negatives):
    recipe = DataRecipe(draws, NegativeDraw(1, **negatives))
    return draw_texts(RECORD, rows, recipe, {"web": 0, "unit": 1}, KINDS, stream(0, position, 0))


def test_units_are_drawn_behind_the_captions_each_with_its_own_foil():
    seen = set()
    for position in range(40):
        texts = drawn(position, WHOLE, UNITS)
        assert texts[:2] == drawn(position, WHOLE)  # what is drawn otherwise stays as it was
        assert [text.negative_of for text in texts] == [-1, 0, -1, 2, -1, 4]
        assert [text.role for text in texts] == [0, 0, 1, 1, 1, 1]
        units = [(texts[place].text, texts[place + 1].text) for place in (2, 4)]
        assert units[0][0] != units[1][0]
        for unit, foil in units:
            assert unit in TEXT
            assert foil not in TEXT
        seen |= {unit for unit, _ in units}
    assert seen == {"a red cup", "a red cup left of a blue plate", "a door"}
    assert {text.text for text in drawn(0, WHOLE, UNITS, kinds=("object",))[2:]} == {"a door", "a gate"}
    assert len(drawn(0, WHOLE, UNITS, rows={})) == 1
    bare = {key: [replace(row, edits=()) for row in rows] for key, rows in ROWS.items()}
    assert len(drawn(0, WHOLE, UNITS, rows=bare)) == 2
    for wrong in ({"units": True}, {"units": True, "name": "u", "lead": 1}):
        with pytest.raises(ValueError, match=r"units|name"):
            CaptionDraw(**wrong)
    with pytest.raises(ValueError, match=r"negatives\.count"):
        DataRecipe((WHOLE, UNITS))


def test_the_terms_are_negclip_and_half_of_negclip_on_own_foils():
    """Matrices: captions, one foil each; units, one foil each that its own image alone meets."""
    source = torch.Generator().manual_seed(1)
    image, *texts = (normalize(torch.randn(4, 6, generator=source, dtype=torch.float64), dim=1) for _ in range(5))
    place, none = torch.arange(4), torch.full((4,), -1)
    pairing = Pairing(
        place.repeat(4),
        torch.cat([none, place, none, place + 8]),
        torch.tensor([0, 0, 1, 1]).repeat_interleave(4),
        torch.cat([none, place * 0, none, place * 0]),
        torch.arange(16),
        place,
        ("web", "unit"),
        ("object",),
    )
    recipe = make_recipe("cs_clip")
    found = Objective(recipe.terms)(ImageFeatures(image), TextFeatures(torch.cat(texts)), pairing, torch.tensor(7.0).double()).value
    caption, false, unit, foil = texts
    expected = cross_entropy(7 * image @ torch.cat([caption, false]).T, place) + cross_entropy(7 * caption @ image.T, place)
    own = torch.cat([7 * image @ unit.T, 7 * (image * foil).sum(1, keepdim=True)], 1)
    expected = expected / 2 + 0.5 * (cross_entropy(own, place) + cross_entropy(7 * unit @ image.T, place)) / 2
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rows, names = tmp_path_factory.mktemp("units"), [], list(COLOURS)
    random = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(16):
            left, right = random.choice(names, 2, replace=False).tolist()
            image, text = picture(left, right, number), f"a {left} cup left of a {right} plate"
            key = content_key(image)
            writer.add(Record(key, f"{key}.png", (SIZE, SIZE), "train", None, (Caption(caption_id(text), text, "web"),)), image)
            for kind, false in (("relation", text.replace("left", "right")), ("object", text.replace("plate", "bowl"))):
                rows.append(Negative(key, caption_id(text), kind, false, edits_between(text, false)))
    write_sidecar(folder, "negatives", rows)
    return Dataset(folder)


def test_the_recipe_trains_and_wants_edits(data, tmp_path):
    recipe = make_recipe("cs_clip", "--optimiser.steps", "10", "--optimiser.lr", "1e-2")
    train(recipe, data, make_model(data, context=20), tmp_path / "run", device="cpu", quiet=True)
    logged = lines(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) and line["loss/units"] > 0 for line in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    plain = make_dataset(tmp_path / "plain")
    rows = [replace(row, edits=()) for found in plain.negatives.values() for row in found]
    write_sidecar(tmp_path / "plain", "negatives", rows)
    with pytest.raises(UserError, match="no hard negative of the data says what it changes"):
        train(recipe, Dataset(tmp_path / "plain"), make_model(plain), tmp_path / "none", device="cpu", quiet=True)

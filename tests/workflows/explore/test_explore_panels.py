"""What the panels compute and show: scores, false captions, maps, neighbours and branches, and refusals in one sentence."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from wholegrain.enrich.negatives.edits import KINDS
from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import encode_image_batches
from wholegrain.evaluation.named import Foreign
from wholegrain.report.examples import Scores
from wholegrain.report.words import WORDS
from wholegrain.towers import load_model
from wholegrain.workflows.embedder import Embedder, load
from wholegrain.workflows.explore import twins
from wholegrain.workflows.explore.branches import branch_rows
from wholegrain.workflows.explore.gallery import DrawnPicture, Gallery, Neighbours, drawn_gallery, open_gallery
from wholegrain.workflows.explore.hard_negatives import Contest, NegativeMaker
from wholegrain.workflows.explore.limits import LONGEST, MOST_BYTES, captions_of
from wholegrain.workflows.explore.panels import Panels, told
from wholegrain.workflows.explore.scores import ScoreTable, score_table, similarities
from wholegrain.workflows.explore.server import drawn_size, models_and_data
from wholegrain.workflows.explore.twins import Setting, make_pair, score_pair
from wholegrain.workflows.given_pictures import GivenPictures

CAPTIONS = ["a red cup left of a blue sun", "a blue cup left of a red sun", "three green keys"]


@pytest.fixture(scope="module")
def gallery():
    return drawn_gallery(64)


@pytest.fixture(scope="module")
def models():
    return [load("base", "cpu"), load("base,grain=1.5", "cpu")]


@pytest.fixture(scope="module")
def panels(models, gallery):
    return Panels(models, gallery, 64)


@pytest.fixture
def path(tmp_path, gallery):
    Image.fromarray(gallery.pictures[3].pixels()).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_the_table_is_the_models_own_similarity(models, gallery):
    table = score_table(models, CAPTIONS, similarities(models, gallery.pictures[0].pixels(), CAPTIONS))
    for model, row in zip(models, table.scores_MN, strict=True):
        assert np.array_equal(row, model.similarity(gallery.pictures[0].pixels(), CAPTIONS)[0])
    for model, row, shares in zip(models, table.scores_MN, table.shares_MN, strict=True):
        assert np.allclose(shares, softmax(model.scale * row), atol=1e-6)
        assert shares.max() - shares.min() > 2 * np.ptp(softmax(row))  # the temperature is another than 1
    assert table.shares_MN.argmax(1).tolist() == table.first_M


def table(scores, names=("one", "two"), captions=("a", "b")):
    scores = np.array(scores, np.float32)
    return ScoreTable(tuple(names), tuple(captions), scores, scores, scores < 0)


def test_the_sentence_says_who_wins():
    assert table([[2, 1], [4, 3]]).sentence == "Both models put “a” first."
    assert table([[2, 1], [3, 4]]).sentence == "one puts “a” first; two puts “b” first."
    assert table([[1, 2]], ["one"]).sentence == "one puts “b” first."
    assert table([[2, 2], [3, 4]]).sentence == "one puts several first, with one score; two puts “b” first."
    assert table([[2, 2], [3, 3]]).first_M == [None, None]
    assert "a score alone says little" in table([[1]], ["one"], ["a"]).sentence


@pytest.mark.parametrize("caption", [*CAPTIONS, "Two dogs run on the beach ."])
def test_false_versions_differ_from_the_caption_and_have_a_kind_in_words(gallery, caption):
    made = NegativeMaker(gallery.texts).of(caption)
    assert made
    assert all(row.text.lower() != caption.lower() and row.kind in KINDS and row.kind in WORDS for row in made)
    assert len({row.kind for row in made}) == len({row.text for row in made}) == len(made)
    assert made == NegativeMaker(gallery.texts).of(caption)


def test_false_versions_are_made_of_words_of_the_data_first(gallery):
    known = {word for text in gallery.texts for word in text.lower().split()}
    (colour,) = [row for row in NegativeMaker(gallery.texts).of("a red cup") if row.kind == "attribute_colour"]
    assert set(colour.text.split()) <= known
    assert [row.kind for row in NegativeMaker().of("a purple cup")]


def test_a_model_keeps_the_caption_where_it_scores_it_higher():
    negatives = NegativeMaker().of("two red cups left of a blue sun")[:3]
    true_M, false_MN = np.array([2.0, 2.0], np.float32), np.array([[1, 2, 3], [1, 1, 1]], np.float32)
    found = Contest("two red cups left of a blue sun", ("one", "two"), tuple(negatives), true_M, false_MN)
    assert found.kept_MN.tolist() == [[True, False, False], [True, True, True]]
    assert found.sentence.startswith("one does not put the caption above 2 of 3 false versions: ")
    assert found.sentence.endswith("; two keeps the caption above all 3 false versions.")


def test_a_picture_is_encoded_once_for_captions_and_their_false_versions(models, gallery, path, monkeypatch):
    asked = []
    monkeypatch.setattr(Embedder, "similarity", lambda self, *given, own=Embedder.similarity, **more: asked.append(given) or own(self, *given, **more))
    html = Panels(models, gallery, 64).scores(path, CAPTIONS, CAPTIONS[0])
    assert len(asked) == len(models)
    pixels_HWC, texts = asked[0]
    assert texts == [*CAPTIONS, CAPTIONS[0], *(row.text for row in NegativeMaker(gallery.texts).of(CAPTIONS[0]))]
    scores = models[0].similarity(pixels_HWC, texts)[0]
    assert all(f"{score:.3f}".replace("-", "−") in html for score in scores)


@pytest.mark.filterwarnings("ignore:.*longer than the model's context")
def test_where_a_model_reads_no_difference_it_is_said_to_score_alike(models, gallery, path):
    """The words that differ stand behind the end of the context."""
    one, note = Panels(models[:1], gallery, 64), "does not read the end of this caption"
    caption = "so it is said, and said again, " * 24 + "a red cup"
    html = one.scores(path, [caption, "a cup"], caption)
    assert "scores both alike" in html
    assert "prefers" not in html
    assert [html.count(note), one.neighbours(path, caption, True).count(note)] == [1, 1]
    assert note not in one.scores(path, CAPTIONS, CAPTIONS[0]) + one.neighbours(path, CAPTIONS[0], True)


def test_a_picture_of_the_gallery_is_nearest_to_itself(models, gallery):
    near = Neighbours(models[0], gallery)
    found = near.of_picture(gallery.pictures[5].pixels(), k=3)
    assert found.pictures[0][0] == 5
    assert found.pictures[0][1] == pytest.approx(1, abs=1e-5)
    text = gallery.captions[5][0]
    assert near.of_text(text, k=1).captions == ((text, pytest.approx(1, abs=1e-5)),)


def test_pictures_for_a_text_are_in_the_order_of_the_models_own_score(models, gallery):
    for model in models:
        found = Neighbours(model, gallery).of_text("a red cup", k=5).pictures
        best, _ = found[0]
        scores = model.similarity(gallery.pictures, ["a red cup"])[:, 0]
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        assert scores[best] == pytest.approx(found[0][1], abs=1e-5)


def test_galleries_of_data(models, dataset, tmp_path):
    found = open_gallery(str(dataset.folder), 10)
    assert len(found.pictures) == 10
    assert found.captions[0] == tuple(c.text for c in dataset.record(dataset.keys("val")[0]).captions)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"None of the 1 pictures .* can be read \(a\.png cannot be decoded"):
        open_gallery(str(tmp_path), 10).spread(5)
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    plain = open_gallery(str(tmp_path), 10)
    assert (plain.captions, plain.spread(5)) == (((), ()), [1])
    near = Neighbours(models[0], plain).of_text("a cup", k=2)
    assert ([place for place, _ in near.pictures], near.captions) == ([1], ())


def test_the_last_word_is_data_where_it_is_no_model(dataset, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "run" / "model").mkdir(parents=True)
    data, photos, run = str(dataset.folder), str(tmp_path / "photos"), str(tmp_path / "run")
    assert models_and_data(["base", run, data]) == (["base", run], data)
    assert models_and_data(["base", photos]) == (["base"], photos)
    assert models_and_data(["base", run]) == (["base", run], "")
    assert models_and_data(["base", "base"]) == (["base"], "")
    for name in ("run.json", ".model.old"):
        (tmp_path / name / name).mkdir(parents=True)
        assert models_and_data(["base", str(tmp_path / name)]) == (["base", str(tmp_path / name)], "")


def test_drawn_pictures_are_larger_for_models_that_look_at_larger_ones(models):
    own = Foreign(SimpleNamespace(preprocess=np.asarray, state_dict=dict), "my.py:clip")
    assert drawn_size(models) == 64
    assert drawn_size([*models, Embedder(own, "my.py:clip")]) == 128


def test_branches_find_the_captions_nearest_to_them(models, gallery):
    model = load_model("base", head="branches")
    pixels = gallery.pictures[0].pixels()
    near = Neighbours(Embedder(model, "branched"), gallery)
    rows = branch_rows(near, pixels, k=2)
    given = GivenPictures([pixels], 0, skip=False)
    (image,) = encode_image_batches(model, given, given.keys, frozenset({"branches"}))
    texts = near.model.embed_texts(gallery.texts)
    assert len(rows) == image.branches_BHD.shape[1] > 1
    for row, branch in zip(rows, image.branches_BHD[0].numpy(), strict=True):
        cosines = texts @ (branch / np.linalg.norm(branch))
        assert row.captions[0] == (gallery.texts[cosines.argmax()], pytest.approx(cosines.max(), abs=1e-5))
    assert branch_rows(Neighbours(models[0], gallery), pixels) == []


def said_of(text, panels):
    """What is suggested where a picture's captions are these."""
    gallery = Gallery("one", ("a",), panels.gallery.pictures[:1], (tuple(text),))
    return Panels(panels.models, gallery, 64).suggested(0).splitlines()


def test_captions_to_begin_with_are_a_true_and_a_false_one(panels):
    true, false = panels.suggested(0).splitlines()
    assert true == panels.gallery.captions[0][0]
    assert false in {row.text for row in NegativeMaker(panels.gallery.texts).of(true)}
    assert said_of([], panels) == said_of([" \n"], panels) == ["a photo of a person", "a photo of a place"]


def test_what_is_suggested_can_be_asked(panels):
    assert said_of(["A red cup.\n\nIt stands left of a blue book."], panels)[0] == "A red cup. It stands left of a blue book."
    long = "a red cup " * 70
    assert said_of([long, "a blue sun"], panels)[0] == "a blue sun"
    assert said_of([long], panels)[0] == ("a red cup " * 50).strip()
    edge = "a red cup and " + "x" * (LONGEST - 14)
    for text in ([long], [edge], ["x" * 800]):
        assert captions_of("\n".join(said_of(text, panels)))


def test_any_picture_of_the_data_can_be_asked_about(panels, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (3_000, 2_400, 3), dtype=np.uint8)
    one = Panels(panels.models, Gallery("one", ("a", "b"), (DrawnPicture(large), panels.gallery.pictures[0]), ((), ())), 64)
    assert one.asked(0).shape == (2_048, 1_638, 3)
    assert np.array_equal(one.asked(1), panels.gallery.pictures[0].pixels())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (2_048, 2_048, 3), dtype=np.uint8)).save(tmp_path / "most.png", compress_level=0)
    assert (tmp_path / "most.png").stat().st_size < MOST_BYTES


def test_every_word_and_phrase_has_a_map_by_every_model(panels, path):
    html = panels.why(path, "a red cup and a blue sun")
    assert html.count('type="radio"') == 1 + 7 + 2
    assert html.count('class="map ') == 2 * (7 + 2)
    assert len(re.findall(r'<label class="(\w+)"', html)) == len(set(re.findall(r'<label class="(\w+)"', html))) == 1 + 7 + 2


def test_a_model_without_the_read_out_it_was_trained_for_is_read_out_by_the_common_one(gallery, path):
    model = Embedder(load_model("base", head="branches"), "branched")
    html = Panels([model], gallery, 64).why(path, "a red cup and a blue sun")
    assert html.count('class="map ') == 7 + 2
    assert "pooled: cosine" in html
    assert "branch 0" in html
    assert "What each branch finds in 60 scenes drawn for you" in html


def test_a_read_out_that_a_model_lacks_is_said_in_its_place(panels, path):
    html = panels.why(path, "a red cup", "h_v")
    assert html.count('class="refused"') == 2
    assert "<img" not in html
    assert "Point at a word" not in html
    assert "Point at a word" in panels.why(path, "a red cup")


def test_what_a_visitor_types_is_never_html(panels, path):
    evil = '<script>alert(1)</script> a red cup"><img src=x>'
    for html in (panels.scores(path, [evil, "a cup"], evil), panels.why(path, evil), panels.neighbours(path, evil, True)):
        assert "<script>" not in html
        assert "<img src=x>" not in html
        assert "alert" in html


def test_neighbours_and_twins_show_every_model(panels, path):
    counted, near = panels.twins(Setting(), count=True), panels.neighbours(path, "a cup", False)
    for html in (near, counted):
        assert "base,grain=1.5" in html
    assert near.count("<img") == 8 * len(panels.models)
    captions = Neighbours(panels.models[0], panels.gallery).of_picture(panels.gallery.pictures[3].pixels()).captions
    assert all(f"<td>{text}</td>" in near for text, _ in captions)
    assert "Of 20 drawings of these same facts, base tells " in counted
    assert "Of 20 drawings" not in panels.twins(Setting())


def test_a_pair_that_breaks_a_model_is_found_or_said_not_to_be(panels, monkeypatch):
    found = panels.broken("swap colours", 0)
    assert not score_pair(panels.models, make_pair(found), 64)[0].group
    asked = []
    always = [Scores(model.name, ((1, 0), (0, 1))) for model in panels.models]
    monkeypatch.setattr(twins, "score_pair", lambda *given: asked.append(given) or always)
    with pytest.raises(UserError, match=rf"^base told all of {twins.TRIES} pairs apart; try another difference"):
        panels.broken("swap colours", 0)
    assert len(asked) == twins.TRIES


def test_nothing_is_worked_out_to_its_end_when_the_app_ends(models, gallery):
    ending = Panels(models[:1], gallery, 64)
    assert "Of 20 drawings" in ending.twins(Setting(), count=True, show=lambda *_: None)
    seen = []
    with pytest.raises(UserError, match="The app has ended"):
        ending.twins(Setting(), count=True, show=lambda what, done, total: (seen.append(done), ending.end()))
    assert seen == [0]


def test_refusals_and_errors_are_one_sentence_in_the_panel():
    def fails(error):
        raise error

    assert told(lambda: "<p>fine</p>", str) == "<p>fine</p>"
    assert "drop &lt;another&gt; one" in told(lambda: fails(UserError("drop <another> one")), str)
    html = told(lambda: fails(ZeroDivisionError("hidden")), lambda error: f"unforeseen {type(error).__name__}")
    assert "unforeseen ZeroDivisionError" in html
    assert "Traceback" not in html

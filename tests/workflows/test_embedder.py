"""The embedder: its vectors are the evaluation's, in the order and of the kinds that were given, and nothing is lost on a broken file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from house_models import small
from PIL import Image

from wholegrain.data.listing import pictures_in
from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import encode_keys, encode_texts
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.similarity import index_vectors, similarity, unit
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.tasks.zero_shot import class_scores
from wholegrain.features import ImageFeatures
from wholegrain.towers import convert_head, save_model
from wholegrain.workflows.embedder import Embedder, load


@pytest.fixture(scope="module")
def embedder():
    return Embedder(small())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven pictures of noise, of several sizes."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for n in range(7):
        Image.fromarray(random.integers(0, 256, (40 + 5 * n, 60, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return pictures_in(folder)


def test_vectors_are_those_of_the_evaluation(embedder, dataset):
    encoded = encode_split(embedder.model, dataset, "val")
    pictures = [dataset.pixels(key) for key in encoded.keys]
    assert torch.equal(embedder.embed_images(pictures, as_tensor=True), index_vectors(encoded.image))
    assert torch.equal(embedder.embed_images(pictures, as_tensor=True, normalize=False), encoded.image.pooled_BD)
    assert torch.equal(embedder.embed_texts(encoded.texts, as_tensor=True), unit(encoded.text.pooled_ND))


def test_one_many_mixed_and_lazy_pictures_give_the_same_rows(embedder, files):
    vectors = embedder.embed_images(files)
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, embedder.width)
    np.testing.assert_array_equal(embedder.embed_images(files), vectors)
    np.testing.assert_array_equal(embedder.embed_images(path for path in files), vectors)
    mixed = [str(files[0]), files[1], Image.open(files[2]), np.asarray(Image.open(files[3]))]
    np.testing.assert_allclose(embedder.embed_images(mixed), vectors[:4], atol=1e-5)
    for one in (files[2], str(files[2]), Image.open(files[2]), np.asarray(Image.open(files[2]))):
        np.testing.assert_allclose(embedder.embed_images(one), vectors[2:3], atol=1e-5)
    np.testing.assert_allclose(embedder.embed_images(iter(files), batch_size=2), vectors, atol=1e-5)
    backwards = embedder.embed_images(files[::-1])
    np.testing.assert_allclose(backwards, vectors[::-1], atol=1e-5)


def test_nothing_gives_no_rows(embedder):
    assert embedder.embed_images([]).shape == embedder.embed_texts([]).shape == (0, embedder.width)


def test_texts(embedder):
    vectors = embedder.embed_texts(["a red cup", "a hat", "a red cup"])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedder.embed_texts("a hat"), vectors[1:2], atol=1e-5)
    with pytest.warns(UserWarning, match="1 of 2 texts are longer"):
        embedder.embed_texts(["a hat", "a red cup left of a blue hat " * 9])
    with pytest.raises(UserError, match=r"Text 1 .*int"):
        embedder.embed_texts(["a hat", 3])


def test_a_picture_that_cannot_be_read_is_named_or_left_out(embedder, files, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    some = [*files[:3], broken, tmp_path / "none.png", *files[3:]]
    with pytest.raises(UserError, match=r"broken\.jpg"):
        embedder.embed_images(some)
    with pytest.raises(UserError, match=r"Picture 1 .*float64"):
        embedder.embed_images([files[0], np.zeros((4, 4, 3))])
    told: list[tuple[int, str]] = []
    found = list(embedder.embed_batches(iter(some), batch_size=2, broken=lambda place, why: told.append((place, why))))
    assert [place for places, _ in found for place in places] == [0, 1, 2, 5, 6, 7, 8]
    np.testing.assert_allclose(torch.cat([rows for _, rows in found]).numpy(), embedder.embed_images(files), atol=1e-5)
    assert [place for place, _ in told] == [3, 4]
    assert "none.png" in told[1][1]


def test_a_folder_stands_for_its_pictures(embedder, files):
    folder = files[0].parent
    np.testing.assert_array_equal(embedder.embed_images(folder), embedder.embed_images(pictures_in(folder)))
    (best, _), *_ = embedder.rank("a red cup", str(folder))
    assert best == embedder.rank("a red cup", pictures_in(folder))[0][0]


def test_every_colour_kind_of_picture(embedder, tmp_path):
    """What a file holds in another form than RGB is what Pillow makes of it."""
    colour = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    kinds = {"L": "png", "CMYK": "jpg", "P": "png", "RGBA": "png", "1": "png"}
    for mode, suffix in kinds.items():
        path = tmp_path / f"{mode}.{suffix}"
        colour.convert(mode).save(path)
        expected = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_allclose(embedder.embed_images(path), embedder.embed_images(expected), atol=1e-5)


def test_files_and_pillow_pictures_are_turned_upright(embedder, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = embedder.embed_images(np.rot90(pixels, -1))  # tag 6: held by its right side, so a quarter turn clockwise
    for turned in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png"), tmp_path):
        np.testing.assert_allclose(embedder.embed_images(turned), upright, atol=1e-6)
    assert not np.allclose(upright, embedder.embed_images(pixels), atol=1e-3)


def test_progress_counts_up_to_all(embedder, files):
    told = []
    embedder.embed_images(files, batch_size=3, progress=lambda *said: told.append(said))
    assert told == [("images", done, 7) for done in (0, 3, 6, 7)]


WORDS = ["a red cup", "a blue hat left of a cup", "a hat"]


@pytest.mark.parametrize("head", ["plain", "filip", "flair", "fusion", "grain"])
def test_the_models_own_score_is_the_evaluations(head, dataset):
    model = convert_head(small(), head).eval()
    pictures = [dataset.pixels(key) for key in dataset.keys("val")[:5]]
    encoded = encode_keys(model, dataset, dataset.keys("val")[:5])
    expected = similarity(encoded, encode_texts(model, WORDS), model).numpy()
    embedder = Embedder(model)
    np.testing.assert_allclose(embedder.similarity(pictures, WORDS, batch_size=2), expected, atol=1e-4, rtol=1e-4)
    cosine = embedder.embed_images(pictures) @ embedder.embed_texts(WORDS).T
    np.testing.assert_allclose(embedder.similarity(pictures, WORDS, score="cosine"), cosine, atol=1e-5)
    assert embedder.similarity([], WORDS).shape == (0, 3)
    assert embedder.similarity(pictures, []).shape == (5, 0)
    with pytest.raises(UserError, match="own"):
        embedder.similarity(pictures, WORDS, score="owm")  # pyright: ignore[reportArgumentType]


def test_rank_sorts_and_names_pictures(embedder, files):
    scores = embedder.similarity(files, "a red cup")[:, 0]
    order = np.argsort(-scores, kind="stable")
    found = embedder.rank("a red cup", (path for path in files), 3)
    assert [name for name, _ in found] == [files[n] for n in order[:3]]
    np.testing.assert_allclose([score for _, score in found], scores[order[:3]], atol=1e-5)
    assert [name for name, _ in embedder.rank("a red cup", [Image.open(path) for path in files], 100)] == order.tolist()
    for query in (files[4], str(files[4]), Image.open(files[4])):
        (best, score), *_ = embedder.rank(query, files, 2)
        assert best == files[4]
        assert score == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="at least 1"):
        embedder.rank("a red cup", files, 0)


def test_classify_is_the_softmax_of_the_zero_shot_scores(embedder, files):
    labels, templates = ["red cup", "blue hat", "hat"], ("a photo of a {}.", "a {}")
    found, probability = embedder.classify(files, labels, templates=templates, batch_size=3)
    encoded = ImageFeatures(embedder.embed_images(files, as_tensor=True, normalize=False))
    scores = class_scores(embedder.model, encoded, labels, templates)
    np.testing.assert_allclose(probability, (embedder.model.scale * scores).softmax(1).detach().numpy(), atol=1e-5)
    assert found == [labels[c] for c in probability.argmax(1)]
    middle = float(np.median(probability.max(1)))
    sure, _ = embedder.classify(files, labels, templates=templates, abstain_below=middle)
    assert [label is None for label in sure] == (probability.max(1) < middle).tolist()
    assert embedder.classify([], labels).probabilities.shape == (0, 3)
    for bad, why in ((["hat"], "two or more"), (["hat", "hat"], "twice"), ("hat", "list of texts"), (["hat", " "], "not empty")):
        with pytest.raises(UserError, match=why):
            embedder.classify(files, bad)
    with pytest.raises(UserError, match="probability from 0 to 1"):
        embedder.classify(files, labels, abstain_below=2)


def test_log_odds_are_not_scaled_again(dataset):
    embedder = Embedder(convert_head(small(), "fusion").eval())
    pictures = [dataset.pixels(key) for key in dataset.keys("val")[:3]]
    with torch.no_grad():
        embedder.model.head.fusion.answer.weight.normal_(generator=torch.Generator().manual_seed(1))
    found = embedder.classify(pictures, WORDS, templates="plain").probabilities
    expected = torch.from_numpy(embedder.similarity(pictures, WORDS)).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found) > 1e-3


def test_a_model_that_gives_no_numbers_ranks_nothing(files):
    model = small()
    with torch.no_grad():
        model.head.text.weight.fill_(float("nan"))
    embedder = Embedder(model)
    for ask in (lambda: embedder.rank("a cup", files), lambda: embedder.classify(files, ["cup", "hat"])):
        with pytest.raises(UserError, match="not finite"):
            ask()


def test_branches_keep_their_length(dataset):
    model = convert_head(small(), "branches").eval()
    embedder, pictures = Embedder(model), [dataset.pixels(key) for key in dataset.keys("val")[:4]]
    vectors = embedder.embed_images(pictures)
    assert (np.linalg.norm(vectors, axis=1) <= 1 + 1e-5).all()
    np.testing.assert_allclose(vectors @ embedder.embed_texts(WORDS).T, embedder.similarity(pictures, WORDS), atol=1e-5)
    assert embedder.rank(pictures[2], pictures, 1)[0] == (2, pytest.approx(1, abs=1e-5))


def test_load_takes_what_the_commands_take(tmp_path):
    save_model(small(), tmp_path / "mine")
    expected = Embedder(small()).embed_texts(WORDS)
    np.testing.assert_array_equal(load(str(tmp_path / "mine"), device="cpu").embed_texts(WORDS), expected)
    np.testing.assert_array_equal(load(tmp_path / "mine", device="cpu").embed_texts(WORDS), expected)
    assert isinstance(load(f"{tmp_path / 'mine'},grain=1").model, WholeAndGrain)
    with pytest.raises(UserError, match="no model"):
        load("nothing-of-the-kind")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            load(tmp_path / "mine", device="cuda")

"""The embedder: its vectors are the evaluation's, in the order and of the kinds that were given, and nothing is lost on a broken file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from house_models import small
from PIL import Image

from wholegrain.data.pictures import pictures_in
from wholegrain.errors import UserError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.workflows.embedder import Embedder


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
    with pytest.raises(UserError, match="Text 1 .*int"):
        embedder.embed_texts(["a hat", 3])


def test_a_picture_that_cannot_be_read_is_named_or_left_out(embedder, files, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    some = [*files[:3], broken, tmp_path / "none.png", *files[3:]]
    with pytest.raises(UserError, match=r"broken\.jpg"):
        embedder.embed_images(some)
    with pytest.raises(UserError, match="Picture 1 .*float64"):
        embedder.embed_images([files[0], np.zeros((4, 4, 3))])
    told: list[tuple[int, str]] = []
    found = list(embedder.embed_batches(iter(some), batch_size=2, broken=lambda place, why: told.append((place, why))))
    assert [place for places, _ in found for place in places] == [0, 1, 2, 5, 6, 7, 8]
    np.testing.assert_allclose(torch.cat([rows for _, rows in found]).numpy(), embedder.embed_images(files), atol=1e-5)
    assert [place for place, _ in told] == [3, 4]
    assert "none.png" in told[1][1]
    with pytest.raises(UserError, match="is a folder"):
        embedder.embed_images(tmp_path)


def test_every_colour_kind_of_picture(embedder, tmp_path):
    """What a file holds in another form than RGB is what Pillow makes of it."""
    colour = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    kinds = {"L": "png", "CMYK": "jpg", "P": "png", "RGBA": "png", "1": "png"}
    for mode, suffix in kinds.items():
        path = tmp_path / f"{mode}.{suffix}"
        colour.convert(mode).save(path)
        expected = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_allclose(embedder.embed_images(path), embedder.embed_images(expected), atol=1e-5)


def test_progress_counts_up_to_all(embedder, files):
    told = []
    embedder.embed_images(files, batch_size=3, progress=lambda *said: told.append(said))
    assert told == [("images", done, 7) for done in (0, 3, 6, 7)]

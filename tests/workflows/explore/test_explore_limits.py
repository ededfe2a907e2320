"""What a visitor may give, and that everything else is one sentence."""

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from wholegrain.errors import UserError
from wholegrain.workflows.explore.limits import LONGEST, MOST_BYTES, MOST_CAPTIONS, captions_of, picture_at


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path, side):
    """A PNG that states so many pixels a side, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def too_many_bytes(path):
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("no picture at all"), r"^dropped\.png cannot be decoded \(not an image of a known kind"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image of a known kind"),
        (lambda path: bomb(path, 10_000), r"10,000 x 10,000 pixels large, more than"),
        (lambda path: bomb(path, 60_000), r"3600000000 pixels"),
        (lambda path: Image.new("L", (5_100, 100)).save(path), r"is 5,100 x 100 pixels large, and the longer side may be 50 times the shorter"),
        (lambda path: Image.new("L", (1, 60_000)).save(path), r"is 1 x 60,000 pixels large, and the longer side may be 50 times the shorter"),
        (too_many_bytes, "longer than 20,971,520 bytes"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence_without_its_folder(tmp_path, make, said):
    path = tmp_path / "dropped.png"
    make(path)
    with pytest.raises(UserError, match=said) as refused:
        picture_at(str(path))
    assert str(tmp_path) not in str(refused.value)
    assert str(refused.value).endswith("; drop another one.")


def test_a_picture_is_read_as_everywhere(tmp_path):
    Image.new("RGB", (7, 5), (10, 20, 30)).save(tmp_path / "a.png")
    assert picture_at(str(tmp_path / "a.png")).shape == (5, 7, 3)
    with pytest.raises(UserError, match="no picture yet"):
        picture_at(None)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_a_photo_is_read_upright_as_the_browser_shows_it(tmp_path, turn, kind):
    lying = Image.fromarray(np.kron([[20, 200], [90, 140], [250, 40]], np.ones((16, 16))).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    lying.save(tmp_path / f"photo.{kind}", exif=exif)
    with Image.open(tmp_path / f"photo.{kind}") as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(picture_at(str(tmp_path / f"photo.{kind}")), upright)


def test_a_picture_that_was_put_away_is_said_to_be(tmp_path):
    with pytest.raises(UserError, match=r"^The picture was put away, as all are after ten minutes; drop it again, or choose one"):
        picture_at(str(tmp_path / "image.png"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no caption yet"),
        (" \n\t\n", "There is no caption yet"),
        ("a" * 100_000, "A caption has 100,000 characters"),
        ("\n".join(f"a picture of {n} cups" for n in range(1_000)), "There are 1,000 captions, and at most 20"),
    ],
)
def test_captions_that_cannot_be_asked_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        captions_of(text)


def test_as_many_and_as_long_captions_as_allowed_are_taken():
    text = "\r\n".join(f"{n:>{LONGEST}}".replace(" ", "x") for n in range(MOST_CAPTIONS))
    assert len(captions_of(text)) == MOST_CAPTIONS
    assert captions_of("half a pair \ud800") == ["half a pair ?"]

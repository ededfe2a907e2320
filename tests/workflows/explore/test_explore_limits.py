"""What a visitor may give, and that everything else is one sentence."""

import struct
import zlib

import pytest
from PIL import Image

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

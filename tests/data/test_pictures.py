"""Only pictures reach a decoder, in known formats and of a bounded size; nothing that a file says starts a program."""

from __future__ import annotations

import io
import os
import resource
import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wholegrain.data.pictures import FORMATS, MOST_PIXELS, BrokenPictureError, decode_rgb, picture_format, read_rgb
from wholegrain.data.scan import look_at
from wholegrain.data.sources.sample import RawSample
from wholegrain.errors import UserError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{ } loop\n%%EOF\n"


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, kind, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    image = bytearray(encoded("JPEG"))
    place = image.index(b"\xff\xc0") + 5
    image[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_known_formats_are_read(kind: str) -> None:
    image = encoded(kind)
    assert picture_format(image) == kind
    assert decode_rgb(image).shape == (8, 8, 3)


def test_animated_pictures_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        file = io.BytesIO()
        options = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
        assert decode_rgb(file.getvalue())[0, 0].tolist() == [255, 0, 0]


def test_no_file_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, fake = tmp_path / "started", tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho started >> {log}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("gs") == str(fake)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(EPS)
    with pytest.raises(BrokenPictureError, match="known kind"):
        decode_rgb(EPS)
    with pytest.raises(UserError, match=r"photo\.jpg cannot be decoded"):
        read_rgb(photo)
    assert "known kind" in look_at(RawSample(photo, (("a", "web", ""),), "train", where="x"))["broken"]
    assert not log.exists()


@pytest.mark.parametrize("kind", ["PPM", "ICO", "SGI", "TGA", "PCX", "JPEG2000"])
def test_other_formats_are_not_opened(kind: str) -> None:
    with pytest.raises(BrokenPictureError, match="known kind"):
        decode_rgb(encoded(kind))


@pytest.mark.parametrize("make", [png_of_size, jpeg_of_size])
def test_large_pictures_are_refused_before_memory_is_taken(make) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for width, height in ((13_300, 13_300), (65_000, 65_000), (60_000, 1_600)):
        assert width * height > MOST_PIXELS
        with pytest.raises(BrokenPictureError, match="pixels"):
            decode_rgb(make(width, height))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_one_kind_of_error(kind: str) -> None:
    image, rng = encoded(kind), np.random.default_rng(0)
    damaged = [image[:cut] for cut in range(0, len(image), max(1, len(image) // 40))]
    for _ in range(150):
        noisy = bytearray(image)
        for place in rng.integers(0, len(noisy), 4):
            noisy[place] = rng.integers(256)
        damaged.append(bytes(noisy))
    for one in damaged:
        with suppress(BrokenPictureError):
            assert decode_rgb(one).ndim == 3

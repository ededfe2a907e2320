"""Opening pictures: the one place where a picture's bytes meet a decoder.

Pillow knows some forty formats, and one of them (EPS) starts Ghostscript on whatever the file says, under any file name. So only formats
whose decoders read pixels and nothing else are opened, by their content: JPEG, PNG, WebP, GIF and animated WebP (their first
frame), BMP and TIFF. The size that the header states is checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps

from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, read_bytes, shown


@runtime_checkable
class HasPixels(Protocol):
    """A picture that is read when it is asked for, such as one of a listing (:mod:`wholegrain.data.listing`)."""

    def pixels(self) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        ...


Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | HasPixels
"""A file's path, a Pillow picture, uint8 RGB ``[H, W, 3]``, or what gives that when asked."""

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
"""Formats that are opened, and the file ending of each."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 89_478_485
"""Of one picture; Pillow's own limit for pictures that it takes for harmless (a quarter of a gigabyte in RGB)."""
MOST_BYTES = 512 * 2**20
"""Of one picture's file."""
_JPEG_COLOURS = ("YCbCr", "RGB", "Gray")


class BrokenPictureError(ValueError):
    """Bytes that are no picture, of a format that is not opened, too large, or cut short. The text is the reason alone."""


@contextmanager
def open_picture(image: bytes) -> Iterator[Image.Image]:
    """A picture's header, checked; its pixels are decoded when they are asked for, inside the block.

    Raises:
        BrokenPictureError: also for whatever the decoder raises inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that nobody reads, and of sizes, which are checked here
            with Image.open(io.BytesIO(image), formats=tuple(FORMATS)) as picture:
                _check_size(picture.size)
                yield picture
    except BrokenPictureError:
        raise
    except Image.UnidentifiedImageError:
        raise BrokenPictureError(f"not an image of a known kind ({', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, IndexError, ...
        raise BrokenPictureError((str(error).splitlines() or [""])[0][:200] or type(error).__name__) from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BrokenPictureError(f"it is {width} x {height} pixels large")
    if width * height > MOST_PIXELS:
        raise BrokenPictureError(f"it is {width:,} x {height:,} pixels large, more than the {MOST_PIXELS:,} that are read")


def picture_format(image: bytes) -> str:
    """One of :data:`FORMATS`, by the content. Raises :class:`BrokenPictureError`."""
    with open_picture(image) as picture:
        return str(picture.format)


def decode_rgb(image: bytes) -> np.ndarray:
    """Decodes a picture's file to uint8 RGB ``[H, W, 3]``.

    JPEG goes through libjpeg-turbo (simplejpeg), which gives Pillow's pixels bit for bit in half of its time; the rest through
    Pillow. Grey, palette, CMYK and 16-bit files become 8-bit RGB (16 bits lose their lower byte; transparency is dropped, as in
    CLIP's own transforms). Orientation tags are not applied, so boxes keep their meaning; :func:`upright_rgb` applies them.

    Raises:
        BrokenPictureError: a :class:`ValueError`.
    """
    if image[:3] == b"\xff\xd8\xff":
        with suppress(ValueError):  # Pillow knows more kinds of JPEG, and says better what is wrong
            height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
            if colours in _JPEG_COLOURS and 0 < int(width) * int(height) <= MOST_PIXELS:
                return simplejpeg.decode_jpeg(image)
    with open_picture(image) as picture:
        return _to_rgb(picture)


def upright_rgb(image: bytes) -> np.ndarray:
    """A picture's file as :func:`decode_rgb` gives it, turned and mirrored as its orientation tag says, so as viewers and browsers show it.

    So are files that a person points at: phones store what their sensor saw, and state in the tag how it was held. Raises
    :class:`BrokenPictureError`; a tag that cannot be read is no tag.
    """
    pixels_HWC = decode_rgb(image)
    turn = 1
    with suppress(BrokenPictureError), open_picture(image) as header:
        if header.format != "TIFF":  # which Pillow turns as it decodes
            turn = header.getexif().get(ExifTags.Base.Orientation, 1)
    return _turned(pixels_HWC, turn)


def _turned(pixels_HWC: np.ndarray, turn: object) -> np.ndarray:
    if turn not in range(2, 9):
        return pixels_HWC
    picture = Image.fromarray(pixels_HWC)
    picture.getexif()[ExifTags.Base.Orientation] = turn
    return np.asarray(ImageOps.exif_transpose(picture))


def read_rgb(path: Path | str, advice: str = "replace it or take it out", decode: Callable[[bytes], np.ndarray] = decode_rgb) -> np.ndarray:
    """A picture's file as uint8 RGB ``[H, W, 3]``; a :class:`UserError` names a file that cannot be read."""
    try:
        return decode(read_bytes(path, advice, most=MOST_BYTES))
    except BrokenPictureError as error:
        raise UnreadableError(path, f"cannot be decoded ({error})", advice) from None


def rgb_of(picture: Picture, place: int, advice: str = "replace it or take it out") -> np.ndarray:
    """A picture in any form as uint8 RGB ``[H, W, 3]``: a file as :func:`upright_rgb` reads it, a Pillow picture likewise, an array as it is.

    Args:
        place: in the caller's list, for messages.

    Raises:
        UserError: it cannot be read, or is of another type, shape or kind of number.
    """
    if isinstance(picture, str | os.PathLike):
        return read_rgb(Path(picture), advice, upright_rgb)
    if isinstance(picture, HasPixels):
        return picture.pixels()
    if isinstance(picture, Image.Image):
        try:
            _check_size(picture.size)
            return _turned(_to_rgb(picture), picture.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception as error:  # a picture is decoded when its pixels are asked for
            raise UserError(f"Picture {place} (from 0) cannot be decoded ({error}); {advice}.") from None
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size:
        _check_array(picture, place)
        return np.ascontiguousarray(picture)
    what = f"an array of {picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else f"of type {type(picture).__name__}"
    raise UserError(f"Picture {place} (from 0) is {what}; give a path, a Pillow picture, or a uint8 array [height, width, 3].")


def _check_array(picture: np.ndarray, place: int) -> None:
    try:
        _check_size((picture.shape[1], picture.shape[0]))
    except BrokenPictureError as error:
        raise UserError(f"Picture {place} (from 0): {error}; make it smaller.") from None


def refuse_folder(error: OSError) -> None:
    """``os.walk`` would pass over a folder that cannot be read in silence."""
    raise UserError(f"the folder {shown(error.filename)} cannot be read ({error.strerror}); make it readable, or move it away")


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):  # 16-bit grey; some Pillow releases read it as 32-bit integers
        values = np.asarray(picture).astype(np.int64)
        values = values >> 8 if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else values
        return np.repeat(values.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))

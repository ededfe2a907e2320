"""Pictures inside a page: as ``data:`` URIs, shown at the part and shape that the model sees."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from wholegrain.evaluation.features.regions import Box

SIDE = 192  # of a picture in the report, in pixels


def data_uri(pixels_HWC: np.ndarray, quality: int = 80) -> str:
    """The picture as a ``data:`` URI in WebP, which every browser of the last years reads and which is half the size of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def seen_part(pixels_HWC: np.ndarray, seen: Box | None = None, side: int = SIDE) -> np.ndarray:
    """uint8 ``[h, w, 3]``: the part ``seen`` (x0, y0, x1, y1; all by default), its longer side ``side`` pixels long.

    Small pictures are enlarged by whole pixels first, so that they stay crisp.
    """
    height, width = pixels_HWC.shape[:2]
    box = seen or (0.0, 0.0, float(width), float(height))
    picture = Image.fromarray(pixels_HWC)
    longer = max(box[2] - box[0], box[3] - box[1])
    times = max(1, round(side / longer))
    if times > 1:
        picture = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    x0, y0, x1, y1 = (times * x for x in box)
    return np.asarray(picture.resize(shown_size(box, side), Image.Resampling.LANCZOS, box=(x0, y0, x1, y1)))


def shown_size(box: Box, side: int) -> tuple[int, int]:
    """Width and height at which a part of a picture is shown."""
    across, down = box[2] - box[0], box[3] - box[1]
    return max(1, round(side * across / max(across, down))), max(1, round(side * down / max(across, down)))

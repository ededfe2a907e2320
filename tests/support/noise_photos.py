"""Pictures of noise."""

import numpy as np
from PIL import Image

from wholegrain.evaluation.benchmarks.items import Picture


def photos(folder, count):
    """Pictures whose pixels spell their number, as the fake towers read them."""
    made = []
    for n in range(count):
        path = folder / f"{n:05d}.png"
        Image.fromarray(np.full((4, 4, 3), (n % 256, n // 256, 0), np.uint8)).save(path)
        made.append(Picture(path))
    return made

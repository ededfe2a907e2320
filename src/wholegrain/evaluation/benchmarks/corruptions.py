"""ImageNet-C's corruptions, 15 and 4 more, at five severities, of any picture.

After Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR 2019), with the
constants of their code for 224 x 224 pixels, as the package ``imagecorruptions`` (Michaelis et al. 2019) carried them over to any size. NumPy,
SciPy and Pillow alone. Where this differs:

* ``frost`` lays photographs of frost over the picture. They are not shipped here: give a folder of them (``frost=``), else frost is drawn
  (ridges of fractal noise), which is milder or harder than the photographs as it happens. Results say which it was.
* ``elastic_transform`` is the one of ``imagecorruptions`` (no affine shift before it), in which the shift grows with the picture.
* ``motion_blur`` and ``snow`` blur without ImageMagick, as in ``imagecorruptions``.
* ``glass_blur`` copies a pixel over its neighbour where the paper exchanges the two: so does the released code, for NumPy's assignment reads
  what it has just written.
* ``spatter`` finds the edges of the drops by a Sobel filter with two thresholds, not by OpenCV's Canny, which thins them.

Every draw is a function of (seed, the picture's key, corruption, severity), so neither order nor sharing out changes a pixel.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from wholegrain.data.pictures import read_rgb
from wholegrain.errors import UserError
from wholegrain.suggest import closest

ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880, "glass_blur": 0.826268,
    "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
"""The 15 corruptions, with AlexNet's errors on ImageNet-C (mean over severities): what its mean corruption error divides by."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
NAMES = (*ALEXNET, *EXTRA)
SEVERITIES = (1, 2, 3, 4, 5)
Made = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def corruption_names(text: str) -> tuple[str, ...]:
    """``all`` is the 15 of ImageNet-C, ``extra`` the four others, else names separated by commas.

    Raises:
        UserError: for an unknown name.

    Example:
        >>> corruption_names("fog,contrast"), len(corruption_names("all,extra"))
        (('fog', 'contrast'), 19)
    """
    found: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in (known := ("all", "extra", *NAMES)):
            raise UserError(f"There is no corruption {name!r}; {closest(name, known)}")
        found += ALEXNET if name == "all" else EXTRA if name == "extra" else (name,)
    return tuple(dict.fromkeys(found))


def generator(seed: int, key: str, name: str, severity: int) -> np.random.Generator:
    """The random numbers of one picture under one corruption."""
    digest = hashlib.sha256(f"{seed}/{key}/{name}/{severity}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def corrupt(pixels_HWC: np.ndarray, name: str, severity: int, rng: np.random.Generator, *, frost: Path | None = None) -> np.ndarray:
    """A corrupted copy.

    Args:
        pixels_HWC: uint8 RGB, 32 pixels or more on each side; the constants are meant for 224.
        name: one of :data:`NAMES`.
        severity: 1 to 5.
        rng: see :func:`generator`.
        frost: a folder with photographs of frost.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    if severity not in SEVERITIES:
        raise UserError(f"The severity is {severity}; choose from 1 to 5.")
    if min(pixels_HWC.shape[:2]) < 32:
        raise UserError(
            f"A picture of {pixels_HWC.shape[1]} x {pixels_HWC.shape[0]} pixels is too small to corrupt; enlarge it to 32."
        )
    if name == "frost":
        made = _frost(pixels_HWC, severity, rng, frost)
    else:
        made = _MADE[name](pixels_HWC, severity, rng)
    return np.clip(made, 0, 255).astype(np.uint8)


def _noise(levels: tuple[float, ...], draw: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> Made:
    def made(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
        return np.clip(draw(pixels / 255.0, levels[severity - 1], rng), 0, 1) * 255

    return made


def _impulse(x: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    hit, white = rng.uniform(size=x.shape) < amount, rng.uniform(size=x.shape) < 0.5
    return np.where(hit, white.astype(x.dtype), x)


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0) if x.ndim == 3 else sigma, mode="nearest")


def _gaussian_blur(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return _blurred(pixels / 255.0, (1, 2, 3, 4, 6)[severity - 1]) * 255


def _glass_blur(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    first = (_blurred(pixels / 255.0, sigma) * 255).astype(np.uint8)
    height, width = first.shape[:2]
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    place = (rows[:, None] * width + columns).ravel()
    taken = list(range(height * width))
    for _ in range(rounds):
        shift = rng.integers(-reach, reach, size=(len(place), 2))
        other = place + shift[:, 1] * width + shift[:, 0]
        for here, there in zip(place.tolist(), other.tolist(), strict=True):
            taken[here] = taken[there]
    mixed = first.reshape(-1, 3)[taken].reshape(first.shape)
    return _blurred(mixed / 255.0, sigma) * 255


@cache
def _disk(radius: int, alias: float) -> np.ndarray:
    reach, size = (8, 3) if radius <= 8 else (radius, 5)
    along = np.arange(-reach, reach + 1)
    disk = (along[:, None] ** 2 + along**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()  # before smoothing, as released: at radius 8 and 10 the picture gets 1% brighter
    bell = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * alias**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, bell / bell.sum(), axis=axis, mode="mirror")
    return disk


def _defocus_blur(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    disk = _disk(*((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1])
    half = len(disk) // 2
    wide = np.pad(pixels / 255.0, ((half, half), (half, half), (0, 0)), mode="reflect")
    return np.clip(np.asarray(signal.fftconvolve(wide, disk[..., None], mode="valid", axes=(0, 1))), 0, 1) * 255


def _streaks(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Motion blur: the mean of shifted copies, half a bell of weights; edges are repeated."""
    width = 2 * radius + 1
    weight = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weight /= weight.sum()
    down, right = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    wide = np.pad(x, ((width, width), (width, width), *((0, 0),) * (x.ndim - 2)), mode="edge")
    height, length = x.shape[:2]
    found = np.zeros(x.shape)
    for n in range(width):
        dy, dx = -int(np.ceil(n * down - 0.5)), -int(np.ceil(n * right - 0.5))
        if abs(dy) >= height or abs(dx) >= length:
            break
        found += weight[n] * wide[width - dy : width - dy + height, width - dx : width - dx + length]
    return found


def _motion_blur(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return _streaks(pixels.astype(np.float64), radius, sigma, rng.uniform(-45, 45))


def _zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The middle enlarged to at least the picture's size, and cut to it."""
    height, width = x.shape[:2]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = x[top : top + rows, left : left + columns]
    return np.asarray(ndimage.zoom(part, (factor, factor, *(1,) * (x.ndim - 2)), order=1))[:height, :width]


def _zoom_blur(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    factors = np.arange(1, (1.11, 1.16, 1.21, 1.26, 1.31)[severity - 1], (0.01, 0.01, 0.02, 0.02, 0.03)[severity - 1])
    x = (pixels / 255.0).astype(np.float32)
    return np.clip((x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1), 0, 1) * 255


def _snow(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]  # fmt: skip
    x = (pixels / 255.0).astype(np.float32)
    flakes = _zoomed(rng.normal(size=x.shape[:2], loc=mean, scale=spread), zoom)
    flakes[flakes < least] = 0
    flakes = _streaks(np.clip(flakes, 0, 1), radius, sigma, rng.uniform(-135, -45))
    flakes = (np.round(flakes * 255).astype(np.uint8) / 255.0)[..., None]
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return np.clip(x + flakes + np.rot90(flakes, k=2), 0, 1) * 255


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A fractal height map by diamond and square (Fournier, Fussell & Carpenter 1982), ``[size, size]`` between 0 and 1, borders joined.

    Args:
        size: a power of two.
        decay: the roughness is divided by it at every halving.
    """
    field, step, rough = np.zeros((size, size), np.float32), size, 100.0

    def between(total: np.ndarray) -> np.ndarray:
        return total / 4 + rough * rng.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corner = field[::step, ::step]
        pair = corner + np.roll(corner, -1, axis=0)
        field[half::step, half::step] = between(pair + np.roll(pair, -1, axis=1))
        middle, corner = field[half::step, half::step], field[::step, ::step]
        field[::step, half::step] = between((middle + np.roll(middle, 1, axis=0)) + (corner + np.roll(corner, -1, axis=1)))
        field[half::step, ::step] = between((middle + np.roll(middle, 1, axis=1)) + (corner + np.roll(corner, -1, axis=0)))
        step, rough = half, rough / decay
    field -= field.min()
    return field / field.max()


def _fog(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    amount, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width = pixels.shape[:2]
    x = pixels / 255.0
    brightest = x.max()
    mist = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width, None]
    return np.clip((x + amount * mist) * brightest / (brightest + amount), 0, 1) * 255


def _frost(pixels: np.ndarray, severity: int, rng: np.random.Generator, folder: Path | None) -> np.ndarray:
    kept, laid = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = pixels.shape[:2]
    if folder is None:
        ice = _drawn_frost(height, width, rng)
    else:
        photos = frost_photos(folder)
        ice = photos[int(rng.integers(len(photos)))]
        grow = 1.1 * max(1.0, height / ice.shape[0], width / ice.shape[1])
        size = (int(np.ceil(ice.shape[1] * grow)), int(np.ceil(ice.shape[0] * grow)))
        ice = np.asarray(Image.fromarray(ice).resize(size, Image.Resampling.BICUBIC))
        top, left = (int(rng.integers(0, there - here)) for there, here in zip(ice.shape[:2], (height, width), strict=True))
        ice = ice[top : top + height, left : left + width]
    return kept * pixels + laid * ice.astype(np.float64)


def _drawn_frost(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Bright, bluish ridges on a darker ground: where two fractal maps cross their middle height."""
    size = 1 << (max(height, width) - 1).bit_length()
    ridge = sum((1 - np.abs(2 * plasma(size, 1.8, rng) - 1)) ** 6 for _ in range(2)) + 0.6 * plasma(size, 2.0, rng)
    ridge = ridge[:height, :width, None] / ridge.max()
    return 255 * np.clip(ridge * np.array([0.88, 0.95, 1.0]) * 1.2, 0, 1)


@cache
def frost_photos(folder: Path) -> tuple[np.ndarray, ...]:
    """The photographs in a folder, uint8 RGB.

    Raises:
        UserError: when there are none.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise UserError(
            f"{folder} holds no .jpg or .png; put photographs of frost there, or leave --frost out and have frost drawn."
        )
    return tuple(map(read_rgb, paths))


def _contrast(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    x = pixels / 255.0
    mean = x.mean((0, 1), keepdims=True)
    return np.clip((x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + mean, 0, 1) * 255


def _brightness(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """More of V in HSV, which scales the three channels alike; black becomes grey."""
    x = pixels / 255.0
    value = x.max(2, keepdims=True)
    more = np.clip(value + 0.1 * severity, 0, 1)
    return np.where(value > 0, x * more / np.where(value > 0, value, 1), more) * 255


def _saturate(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """S in HSV times and plus a constant. What is grey has the hue 0, so it turns red where something is added."""
    times, plus = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    x = pixels / 255.0
    value = x.max(2, keepdims=True)
    chroma = value - x.min(2, keepdims=True)
    old = np.where(value > 0, chroma / np.where(value > 0, value, 1), 0)
    new = np.clip(old * times + plus, 0, 1)
    coloured = value - (value - x) * new / np.where(old > 0, old, 1)
    red = value * np.concatenate([np.ones_like(new), 1 - new, 1 - new], 2)
    return np.where(old > 0, coloured, red) * 255


def _jpeg_compression(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.asarray(Image.open(file))


def _pixelate(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    share, (height, width) = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1], pixels.shape[:2]
    small = Image.fromarray(pixels).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def _elastic_transform(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
    shape, most = pixels.shape[:2], pixels.shape[0] * 0.005
    sigma = tuple(0.01 * side for side in shape)
    shift_x, shift_y = (
        strength * ndimage.gaussian_filter(rng.uniform(-most, most, size=shape), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    row, column = np.mgrid[: shape[0], : shape[1]]
    place = np.stack([row + shift_y, column + shift_x])
    x = pixels / np.float32(255)
    moved = [ndimage.map_coordinates(x[..., c], place, order=1, mode="reflect") for c in range(3)]
    return np.clip(np.stack(moved, 2), 0, 1) * 255


def _spatter(pixels: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    mean, spread, blur, least, strength, mud = (
        (0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0), (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    )[severity - 1]  # fmt: skip
    x = pixels / 255.0
    liquid = _blurred(rng.normal(size=x.shape[:2], loc=mean, scale=spread), blur)
    liquid[liquid < least] = 0
    if mud:
        amount = _blurred((liquid > least).astype(np.float32), strength)[..., None]
        amount[amount < 0.8] = 0
        return np.clip(x * (1 - amount) + amount * np.array([63, 42, 20]) / 255, 0, 1) * 255
    drops = (liquid * 255).astype(np.uint8)
    weight = drops * _shade(drops).astype(np.float64)
    weight = (weight / max(weight.max(), 1e-9) * strength)[..., None]
    return np.clip(x + weight * np.array([175, 238, 238]) / 255, 0, 1) * 255


def _shade(drops: np.ndarray) -> np.ndarray:
    """Light on drops: from the distance to their edges, histogram equalised, lit from one corner."""
    slope = [ndimage.sobel(drops.astype(np.float64), axis, mode="nearest") for axis in (0, 1)]
    steep = np.abs(slope[0]) + np.abs(slope[1])
    parts = np.zeros(steep.shape, np.int32)
    ndimage.label(steep > 50, np.ones((3, 3)), output=parts)
    strong = np.zeros(parts.max() + 1, bool)  # which of the connected slopes are steep anywhere
    strong[parts[steep > 150]] = True
    strong[0] = False
    edge = strong[parts]
    away = np.minimum(np.asarray(ndimage.distance_transform_edt(~edge)), 20.0) if edge.any() else np.full(drops.shape, 20.0)
    level = np.rint(ndimage.uniform_filter(away, 3, mode="mirror")).astype(np.uint8)
    counts = np.bincount(level.ravel(), minlength=256)
    first = int(counts.nonzero()[0][0])
    ahead = np.cumsum(counts) - counts[first]
    level = np.rint(255 * ahead / max(level.size - counts[first], 1))[level]
    lit = np.clip(ndimage.correlate(level, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror"), 0, 255)
    return np.rint(ndimage.uniform_filter(lit, 3, mode="mirror"))


_MADE: dict[str, Made] = {
    "gaussian_noise": _noise((0.08, 0.12, 0.18, 0.26, 0.38), lambda x, c, rng: x + rng.normal(size=x.shape, scale=c)),
    "shot_noise": _noise((60, 25, 12, 5, 3), lambda x, c, rng: rng.poisson(x * c) / c),
    "impulse_noise": _noise((0.03, 0.06, 0.09, 0.17, 0.27), _impulse),
    "speckle_noise": _noise((0.15, 0.2, 0.35, 0.45, 0.6), lambda x, c, rng: x + x * rng.normal(size=x.shape, scale=c)),
    "gaussian_blur": _gaussian_blur, "glass_blur": _glass_blur, "defocus_blur": _defocus_blur, "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur, "snow": _snow, "fog": _fog, "brightness": _brightness, "contrast": _contrast, "saturate": _saturate,
    "elastic_transform": _elastic_transform, "pixelate": _pixelate, "jpeg_compression": _jpeg_compression, "spatter": _spatter,
}  # fmt: skip

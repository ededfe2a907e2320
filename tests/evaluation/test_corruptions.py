"""ImageNet-C's corruptions: closed forms, order of severities, draws that depend on the picture alone, and how results are put together."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.corrupted import source_view
from wholegrain.evaluation.benchmarks.corruptions import ALEXNET, NAMES, corrupt, corruption_names, generator, plasma


def scene(height=96, width=80, seed=0):
    """A smooth picture with edges."""
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.random((height, width, 3)), (6, 6, 0))
    x = (x - x.min()) / (x.max() - x.min())
    x[height // 4 : height // 2, width // 4 : width // 2] = (0.9, 0.2, 0.1)
    return (x * 255).astype(np.uint8)


def far(name, severity, pictures):
    made = [corrupt(x, name, severity, generator(0, str(n), name, severity)).astype(float) for n, x in enumerate(pictures)]
    return np.mean([np.abs(y - x).mean() for x, y in zip(pictures, made, strict=True)])


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_keeps_the_shape_and_depends_on_the_picture_alone(name):
    x = scene()
    for severity in (1, 5):
        once, again, other = (corrupt(x, name, severity, generator(0, key, name, severity)) for key in ("a", "a", "b"))
        assert once.shape == x.shape
        assert once.dtype == np.uint8
        assert np.array_equal(once, again)
        assert not np.array_equal(once, x)
        drawn = name not in (
            "gaussian_blur",
            "defocus_blur",
            "zoom_blur",
            "brightness",
            "contrast",
            "saturate",
            "pixelate",
            "jpeg_compression",
        )
        assert drawn != np.array_equal(once, other)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("frost", "saturate", "spatter", "snow", "glass_blur")])
def test_a_greater_severity_changes_more(name):
    """Of the others the published constants do not grow in every step."""
    pictures = [scene(seed=n) for n in range(3)]
    first, middle, last = (far(name, severity, pictures) for severity in (1, 3, 5))
    assert first < middle < last


def test_closed_forms():
    x = np.full((64, 64, 3), 128, np.uint8)
    rng = generator(0, "x", "", 1)
    noisy = corrupt(x, "gaussian_noise", 1, rng).astype(float)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    shot = corrupt(x, "shot_noise", 2, rng).astype(float)
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 25) * 255, rel=0.05)
    impulse = corrupt(x, "impulse_noise", 4, rng)
    assert set(np.unique(impulse)) == {0, 128, 255}
    assert (impulse != 128).mean() == pytest.approx(0.17, abs=0.02)
    speckle = corrupt(x, "speckle_noise", 1, rng).astype(float)
    assert speckle.std() == pytest.approx(0.15 * 128, rel=0.05)
    y = scene()
    flat = corrupt(y, "contrast", 5, rng).astype(float)
    assert flat.mean((0, 1)) == pytest.approx(y.mean((0, 1)), abs=1)
    assert (flat.std((0, 1)) < 0.06 * y.std((0, 1))).all()
    assert np.array_equal(corrupt(np.full((40, 40, 3), (100, 50, 0), np.uint8), "brightness", 2, rng)[0, 0], [151, 75, 0])
    assert np.array_equal(corrupt(np.zeros((40, 40, 3), np.uint8), "brightness", 2, rng)[0, 0], [51, 51, 51])
    assert np.ptp(corrupt(np.full((40, 40, 3), (100, 50, 0), np.uint8), "saturate", 2, rng)[0, 0]) in (
        10,
        11,
    )  # a tenth of the chroma
    blocks = corrupt(scene(100, 100), "pixelate", 5, rng)
    assert len({tuple(p) for p in blocks.reshape(-1, 3)}) <= 25 * 25
    for blur in ("gaussian_blur", "zoom_blur", "motion_blur"):
        assert np.abs(corrupt(x, blur, 3, rng).astype(int) - 128).max() <= 1  # nothing to blur


def test_a_dot_is_blurred_to_a_disk_and_to_a_line():
    x = np.zeros((65, 65, 3), np.uint8)
    x[32, 32] = 255
    disk = corrupt(x, "defocus_blur", 2, None)[..., 0] > 2
    reach = np.argwhere(disk) - 32
    assert 3.5 <= np.hypot(*reach.T).max() <= 5.5
    assert np.array_equal(disk, disk.T)
    line = np.argwhere(corrupt(x, "motion_blur", 2, generator(0, "a", "", 2))[..., 0] > 0)
    spread = np.linalg.svd(line - line.mean(0), compute_uv=False)
    assert spread[1] < 0.15 * spread[0]


def test_fog_is_rough_at_every_scale_and_joins_at_its_borders():
    field = plasma(64, 2, np.random.default_rng(0))
    assert (field.min(), field.max()) == (0, 1)
    assert np.abs(field[:, 0] - field[:, -1]).mean() < 3 * np.abs(np.diff(field, axis=1)).mean()
    assert plasma(64, 3, np.random.default_rng(0)).std() > 0


def test_photographs_of_frost_are_used_if_given(tmp_path):
    x = scene()
    Image.new("RGB", (30, 300), (200, 100, 0)).save(tmp_path / "frost.png")  # narrower than the picture: it is enlarged
    made = corrupt(x, "frost", 1, generator(0, "a", "frost", 1), frost=tmp_path)
    assert np.array_equal(made, np.clip(x + 0.4 * np.array([200, 100, 0]), 0, 255).astype(np.uint8))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="photographs of frost"):
        corrupt(x, "frost", 1, generator(0, "a", "frost", 1), frost=tmp_path / "none")


def test_what_cannot_be_is_said():
    assert corruption_names("all") == tuple(ALEXNET)
    with pytest.raises(UserError, match="gaussian_noise"):
        corruption_names("rain")
    with pytest.raises(UserError, match="1 to 5"):
        corrupt(scene(), "fog", 6, generator(0, "a", "fog", 6))
    with pytest.raises(UserError, match="too small"):
        corrupt(scene(20, 60), "fog", 1, generator(0, "a", "fog", 1))


def test_the_view_is_the_middle_or_the_whole():
    x = np.zeros((100, 300, 3), np.uint8)
    x[:, 100:200] = 255
    assert source_view(x, crop=True).shape == (224, 224, 3)
    assert source_view(x, crop=True).mean() > 250  # the middle third, enlarged
    assert source_view(x, crop=False).shape == (224, 672, 3)

"""``wholegrain search`` as it is typed: what it prints where, and the page on it."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wholegrain.cli import main as cli
from wholegrain.cli.search import SearchArguments, search
from wholegrain.data.listing import list_pictures
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError

PAGE = Path(__file__).parents[2] / "docs/image_search.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder ``photos`` of drawn pictures with a folder in it, among files that are none."""
    folder = tmp_path / "photos"
    for n, name in enumerate(("a.png", "Über uns/b c.png", "d.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(draw).resize((64, 48), Image.Resampling.NEAREST).save(folder / name)
    (folder / "e.heic").write_text("of another kind")
    (folder / "broken.jpg").write_text("no picture")
    Image.fromarray(draw).save(tmp_path / "beach.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHOLEGRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arguments(*more, **options):
    return SearchArguments(model="base", pictures="photos", query=more[0] if more else "", device="cpu", **options)


def test_hits_go_to_standard_output_and_all_else_to_standard_error(place, capsys):
    search(arguments("a red cup, and a blue sun", k=2))
    first = capsys.readouterr()
    rank, score, path = first.out.splitlines()[0].split(maxsplit=2)
    assert (rank, Path(path).is_file(), -1 <= float(score) <= 1) == ("1", True, True)
    assert re.fullmatch(r" +a red cup: [a-z ]+; a blue sun: [a-z ]+", first.out.splitlines()[1])
    assert len(first.out.splitlines()) == 4
    assert "1 file that is no picture of a known kind was passed over (1 .heic)" in first.err
    assert "cannot be used: broken.jpg: cannot be decoded" in first.err
    assert "3 pictures: 3 new, 1 cannot be read" in first.err
    search(arguments("a red cup, and a blue sun", k=2))
    second = capsys.readouterr()
    assert second.out == first.out
    assert "3 pictures: none new, 1 cannot be read" in second.err
    assert "broken.jpg" not in second.err
    line = next(line for line in second.err.splitlines() if line.startswith("next: look at them: "))
    words = shlex.split(line.partition("them: ")[2])
    assert words == ["wholegrain", "search", "base", "photos", "a red cup, and a blue sun", "-k", "2", "--html", "sheet.html"]


def test_the_options_as_they_are_typed(place, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["search", "base", "photos", "--by", "beach.jpg", "-k", "1", "--html", "sheet.html", "--index", "kept"])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "written: sheet.html"
    assert len(printed.out.splitlines()) == 2
    assert "Pictures like beach.jpg" in (place / "sheet.html").read_text()
    assert list((place / "kept").glob("*/part-*"))
    assert not (place / "cache").exists()


def test_on_a_terminal_long_paths_are_wrapped_at_its_width(place, capsys, monkeypatch):
    long = place / "photos" / ("a very long name of a folder " * 3) / ("x" * 60 + ".png")
    long.parent.mkdir()
    (place / "photos" / "a.png").rename(long)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    search(arguments("a red cup"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("x.png") and line.startswith("  ") for line in lines)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either words"),
        ({"by": Path("nowhere.jpg")}, "nowhere.jpg does not exist"),
        ({"by": Path("photos/e.heic")}, "cannot be decoded"),
        ({"query": "a", "k": 0}, "must be at least 1"),
        ({"query": "a", "html": Path("photos")}, "is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(place, given, said):
    with pytest.raises(UserError, match=said):
        search(arguments(given.pop("query", ""), **given))
    assert not (place / "cache").exists()


def test_the_page_on_search(tmp_path, capsys, monkeypatch):
    build_scenes(tmp_path / "scenes", World(), SceneCounts(train=4, val=0, test=0, crowded=0, twins=0))
    (tmp_path / "photos").mkdir()
    for picture in list_pictures(tmp_path / "scenes").pictures:
        (tmp_path / "photos" / f"{picture.name}.png").write_bytes(picture.read())
    Image.new("RGB", (40, 30)).save(tmp_path / "beach.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHOLEGRAIN_CACHE", str(tmp_path / "cache"))
    text = PAGE.read_text(encoding="utf-8")
    for command in re.findall(r"^(wholegrain search [^\n]+)$", text, re.M):
        words = ["base" if word == "ViT-B-32:openai" else word for word in shlex.split(command)[1:]]
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main([*words, "--device", "cpu"])
    capsys.readouterr()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "sheet.html").unlink()
    exec(compile(code, "image_search.md", "exec"), {})
    assert capsys.readouterr().out.count("'a red cup': ") == 3
    assert (tmp_path / "sheet.html").stat().st_size > 1000

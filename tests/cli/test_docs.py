"""The documentation: it builds as a site without a warning, its links lead somewhere, and its table for users of open_clip names what exists."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from wholegrain.objectives.schema import DataRecipe, ModelRecipe, Optimiser, Saving, TeacherRecipe

HOME = Path(__file__).parents[2]
PAGES = [path for path in (HOME / "README.md", HOME / "CONTRIBUTING.md", *HOME.glob("docs/**/*.md")) if "_build" not in path.parts]
SECTIONS = {"optimiser": Optimiser, "model": ModelRecipe, "data": DataRecipe, "saving": Saving, "teacher": TeacherRecipe}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", tmp_path / "site"], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Coming from open_clip" in page
    assert 'class="py class"' in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(HOME).as_posix() for path in PAGES])
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_flags_of_open_clip_and_keys_of_recipes_in_the_table_exist():
    params = pytest.importorskip("open_clip_train.params")
    known = set(re.findall(r'"(--[a-z0-9-]+)"', inspect.getsource(params)))
    page = (HOME / "docs/coming_from_open_clip.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| `--")]
    assert len(rows) > 20
    for row in rows:
        assert set(re.findall(r"`(--[a-z0-9-]+)", row[1])) <= known, row
        for section, key in re.findall(r"`(optimiser|model|data|saving|teacher)\.(\w+)", row[2]):
            assert key in {field.name for field in fields(SECTIONS[section])}, (section, key)

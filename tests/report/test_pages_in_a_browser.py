"""Every page as a person meets it: light and dark, wide and narrow, with mouse and keyboard, and by axe-core's rules."""

import re

import pytest
from browsing import MISSING, chromium, violations
from halves import make_model
from made_curves import curve, curves
from PIL import Image

from wholegrain.cli.main import main
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.report.contact_sheet import write_contact_sheet
from wholegrain.report.curves_page import write_curves_page
from wholegrain.report.entry import Entry
from wholegrain.report.report import Report, write_report
from wholegrain.report.standings_page import write_standings_page
from wholegrain.workflows.quality import quality

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),  # one browser for all
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
NAMES = ("report", "standings", "curves", "contact_sheet", "quality", "search", "explanation", "audit")
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(halves, tmp_path_factory):
    """Name -> file of each kind of page."""
    place = tmp_path_factory.mktemp("pages")
    tasks = ("retrieval", "compositional", "grounding", "branches")
    entries = []
    for name, model in (("one", make_model(halves, 0)), ("two", make_model(halves, 1, branches=2))):
        entries.append(Entry(name, None, model, evaluate(model, halves, EvaluationOptions(progress=False), tasks=tasks)))
    made = curves(curve("fast", (0.5, 0.7, 0.8)), curve("slow", (0.2, 0.3, 0.4)))
    found = {
        "report": write_report(place / "report.html", Report(entries, halves, title="Two models")),
        "standings": write_standings_page(made.standings[40], place / "standings.html"),
        "curves": write_curves_page(made, place / "curves.html"),
        "contact_sheet": write_contact_sheet(halves, place / "contact_sheet.html"),
    }
    quality(halves, place / "quality", samples=2)
    return found | {"quality": place / "quality" / "quality.html"} | asked_of_the_base(place)


def asked_of_the_base(place):
    """The pages that commands write of scenes and the base model."""
    build_scenes(place / "scenes", World(), SceneCounts(4, 4, 12, 0, 4), workers=1)
    data = Dataset(place / "scenes")
    key = data.keys("test")[0]
    Image.fromarray(data.pixels(key)).save(place / "scene.png")
    commands = {
        "search": ["search", "base", place / "scenes", "a red cup", "--html", place / "search.html", "--index", place / "index"],
        "explanation": ["explain", "base", place / "scene.png", data.record(key).captions[0].text, "--html", place / "explanation.html"],
        "audit": ["audit", "base", place / "scenes", "--out", place / "audit", "--pictures", "2"],
    }
    for words in commands.values():
        with pytest.raises(SystemExit) as end:
            main([*map(str, words), "--device", "cpu"])
        assert not end.value.code
    return {"search": place / "search.html", "explanation": place / "explanation.html", "audit": place / "audit" / "audit.html"}


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_read_by_everybody_and_everywhere(name, pages, browser):
    assert pages[name].stat().st_size < MOST_BYTES
    for scheme, width in (("light", 1200), ("dark", 400)):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        asked, said = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(pages[name].as_uri())
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert violations(page) == [], (scheme, width)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{width} pixels are too few"
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert said == []
        page.close()


def test_printed_it_has_all_that_is_unfolded(pages, browser):
    page = browser.new_page()
    page.goto(pages["report"].as_uri())
    page.emulate_media(media="print")
    assert len(page.pdf()) > 10_000
    page.close()


def test_a_table_is_sorted_and_filtered_and_unfolded_by_the_keyboard_alone(pages, browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(pages["report"].as_uri())
    folded = page.locator("details:has(table.turned)").first
    table = folded.locator("table.turned").first
    assert not table.is_visible()
    folded.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert table.is_visible()
    head = table.locator("thead th").nth(1)
    head.locator("button").focus()
    for order in ("descending", "ascending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        column = [*map(number, table.locator("tbody tr td:nth-of-type(1)").all_inner_texts())]
        assert column == sorted(column, reverse=order == "descending")
    page.close()


def number(text: str) -> float:
    """The figure that a cell begins with."""
    found = re.match(r"[−+\-]?[\d.]+", text.strip())
    return float(found[0].replace("−", "-")) if found else float("-inf")


def test_the_watch_itself_sees_what_is_wrong(browser, tmp_path):
    (tmp_path / "bad.html").write_text('<html><body><img src="x.png"><p style="color:#ccc;background:#fff">pale</p></body></html>')
    page = browser.new_page()
    page.goto((tmp_path / "bad.html").as_uri())
    assert {line.partition(":")[0] for line in violations(page)} >= {"image-alt", "color-contrast", "html-has-lang"}
    page.close()

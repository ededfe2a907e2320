"""``wholegrain explore`` as it is typed: refusals before a server starts, and a visit with a browser from end to end."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import browsing
import pytest
from PIL import Image

from wholegrain.cli import explore
from wholegrain.cli import main as cli
from wholegrain.data.scenes.draw import draw
from wholegrain.data.scenes.world import World, draw_scene
from wholegrain.workflows.explore import server

MISSING = [*browsing.MISSING, *([] if importlib.util.find_spec("gradio") else ["gradio"])]


@pytest.fixture
def no_server(monkeypatch):
    """Fails a test in which a server would start, and lets Gradio seem to be there."""
    monkeypatch.setattr(server, "serve", lambda *_: pytest.fail("a server was started"))
    monkeypatch.setattr(server, "need_gradio", lambda: None)


def refused(words, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["explore", *words])
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


@pytest.mark.parametrize("version", ["", "5.49.1", "6.30.0", "7.0.0"])
def test_without_a_gradio_that_it_knows_it_says_what_to_install(version, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: (version or None) if name == "gradio" else find(name, *more))
    monkeypatch.setattr(server, "version", lambda name: version)
    said = 'wholegrain: explore needs Gradio 6.31 or newer, below 7; install it with: pip install "wholegrain[explore]"'
    assert refused(["base"], capsys) == said


@pytest.mark.parametrize("version", ["6.31.0", "6.40.2"])
def test_a_gradio_that_it_knows_is_taken(version, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(server, "version", lambda name: version)
    server.need_gradio()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ViT-B-23"], "there is no model 'ViT-B-23'; did you mean ViT-B-32"),
        ([], "needs a model, such as: wholegrain explore base"),
        (["base", "nowhere/photos"], "there is no folder or file nowhere/photos"),
        (["base", "--data", "nowhere.csv"], "nowhere.csv"),
        (["base", "--pictures", "0"], "--pictures must be at least 1"),
        (["base", "--port", "99999"], "--port 1 to 65535"),
        (["a", "b", "c", "d", "e"], "There are 5 models, and at most 4 stand side by side"),
    ],
)
def test_what_cannot_be_explored_is_one_sentence_and_no_server(words, said, no_server, capsys):
    assert said in refused(words, capsys)


def test_a_port_that_is_taken_is_one_sentence(no_server, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(["base", "--port", str(port)], capsys)
    assert re.search(rf"cannot listen at 127\.0\.0\.1, port {port} \(Address already in use\); name another one by --port", said)


@pytest.mark.parametrize(
    ("error", "told", "printed"),
    [
        (ZeroDivisionError("of /home/alice and my words"), "This question could not be answered (ZeroDivisionError); ask another one.", "my words"),
        (PermissionError(13, "denied", "/home/alice/photo.png"), "This question could not be answered (PermissionError); ask another one.", "alice/photo.png"),
        (MemoryError("a lot"), "The machine's memory is full (a lot); close other programs, or use a larger machine.", "memory is full"),
    ],
)
def test_a_visitor_reads_no_path_and_an_error_leaves_no_file(error, told, printed, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert explore.told_to_visitor(error) == told
    assert printed in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


@pytest.fixture
def served(tmp_path):
    """The address of a running app, and its process; its temporary files lie in ``tmp_path``."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "wholegrain", "explore", "base", "base,grain=1.5", "--device", "cpu"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        found = re.search(r"serving base, base,grain=1.5 at (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line + process.stderr.read()
        assert process.stdout.readline().startswith("next: open it in a browser")
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_visit_from_end_to_end(served, tmp_path):
    from playwright.sync_api import expect

    address, process = served
    world = World()
    scene = draw_scene(world, world.rng("visit", 0))
    Image.fromarray(draw(scene)).save(tmp_path / "scene.png")
    (tmp_path / "text.png").write_text("no picture")
    with browsing.chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(30_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#scores .captions")

        page.locator("#captions textarea").fill("a purple dragon\nnothing at all")
        page.get_by_label("Remove Image").click()
        expect(page.locator("#scores .refused")).to_contain_text("There is no picture yet")
        drop(page, tmp_path / "text.png")
        expect(page.locator("#scores .refused")).to_contain_text("text.png cannot be decoded")
        page.get_by_label("Remove Image").click()
        drop(page, tmp_path / "scene.png")
        expect(page.locator("#scores .captions > li > p").first).to_have_text("a purple dragon")
        assert page.locator("#scores .bar").count() == 4
        page.locator("#closer input").fill("2")
        expect(page.locator("#scores h2")).to_have_text("Made false: “nothing at all”")
        page.locator("#closer input").fill("1")
        expect(page.locator("#scores h2")).to_have_text("Made false: “a purple dragon”")
        assert violations_at_rest(page) == []

        page.get_by_role("tab", name="Why").last.click()
        word = page.locator("#why label", has_text="dragon").first
        word.hover()
        shown = page.locator(f"#why .map.{word.get_attribute('class')}").first
        expect(shown).to_have_css("opacity", "1")

        assert violations_at_rest(page) == []

        page.get_by_role("tab", name="Break and repair").last.click()
        before = page.locator("#twins img").first.get_attribute("src")
        page.locator("#drawing input[type=range]").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#twins img").first).not_to_have_attribute("src", before)
        expect(page.locator("#twins .matrix")).to_have_count(2)
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
        assert violations_at_rest(page) == []
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "stopped; no picture or text was kept"
    assert "Traceback" not in err
    assert list(tmp_path.glob("wholegrain-explore-*")) == []


def violations_at_rest(page):
    """Gradio pales what it is about to write anew, so it is waited for, and for what follows from that."""
    quiet = 0
    while quiet < 5:
        page.wait_for_function("document.querySelector('.pending') === null")
        time.sleep(0.1)
        quiet = quiet + 1 if page.locator(".pending").count() == 0 else 0
    return browsing.violations(page)


def drop(page, path: Path):
    page.locator("#picture input[type=file]").first.set_input_files(path)
    time.sleep(0.2)

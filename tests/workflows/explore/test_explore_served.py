"""The app as Gradio serves it, asked without a browser: its first answers, and what it must not hand out or fetch."""

import json
import tempfile
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wholegrain.errors import UserError
from wholegrain.workflows.embedder import load
from wholegrain.workflows.explore import server
from wholegrain.workflows.explore.gallery import drawn_gallery
from wholegrain.workflows.explore.only_here import OnlyHere
from wholegrain.workflows.explore.panels import Panels
from wholegrain.workflows.explore.twins import Setting

gradio = pytest.importorskip("gradio", minversion="6.31")
SECRET = "nobody's business"


@pytest.fixture(scope="module")
def visit():
    """A client of the served app, the app, and its panels."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from wholegrain.workflows.explore.app import build

    with server._nothing_kept():
        panels = Panels([load("base", "cpu")], drawn_gallery(64), 64)
        app = build(panels, lambda error: f"unforeseen: {error}")
        mounted = OnlyHere(server._mounted(FastAPI(), app, "127.0.0.1", 7860), "127.0.0.1")
        with TestClient(mounted, base_url="http://127.0.0.1:7860") as client:
            yield client, app, panels


def asked(visit, data):
    """What the app answers to a question of its first tabs, message by message."""
    client, app, _ = visit
    number = min(n for n, event in app.fns.items() if event.name == "answer")
    join = {"data": data, "fn_index": number, "session_hash": f"visit{len(str(data))}"}
    assert client.post("/gradio_api/queue/join", json=join).status_code == 200
    answer = client.get("/gradio_api/queue/data", params={"session_hash": join["session_hash"]})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    (done,) = [message for message in map(json.loads, lines) if message["msg"] == "process_completed"]
    return done


def function(visit, name):
    """What answers an event of the app."""
    (found,) = [event.fn for event in visit[1].fns.values() if event.name == name]
    return found


def question(picture, captions="a red cup"):
    return ["scores", picture, captions, 1, "each model's own", "the picture"]


def named(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def kept(name):
    """Copies of a file in the folder that Gradio serves from."""
    return list(Path(tempfile.gettempdir()).glob(f"wholegrain-explore-*/**/{name}"))


def test_a_picture_that_is_uploaded_is_answered(visit, tmp_path):
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "mine.png")
    client, *_ = visit
    assert client.get("/").status_code == 200
    with (tmp_path / "mine.png").open("rb") as file:
        (path,) = client.post("/gradio_api/upload", files={"files": ("mine.png", file)}).json()
    answer = asked(visit, question(named(path)))
    assert answer["success"]
    assert "a score alone says little" in str(answer["output"])


@pytest.mark.parametrize("where", ["picture", "captions"])
def test_a_file_of_the_owner_is_not_given_to_a_visitor(visit, tmp_path, where):
    secret = tmp_path / f"secret-{where}.png"
    secret.write_text(SECRET)
    answer = asked(visit, question(named(secret)) if where == "picture" else question(None, named(secret)))
    assert not answer["success"]
    assert kept(secret.name) == []
    assert SECRET not in visit[0].get(f"/gradio_api/file={secret}").text


def test_an_address_in_the_place_of_a_file_is_not_fetched(visit, monkeypatch):
    import safehttpx
    from gradio import route_utils

    asked_for = []

    async def record(host, *_, **__):
        asked_for.append(host)
        raise OSError

    monkeypatch.setattr(safehttpx, "get", record)
    monkeypatch.setattr(route_utils.safehttpx, "async_validate_url", record)
    assert not asked(visit, question(named("https://example.com/big.png")))["success"]
    answer = visit[0].get("/gradio_api/file=https://example.com/big.png")
    assert answer.status_code == 403
    assert "save it and drop the file" in answer.text
    assert asked_for == []


@pytest.mark.parametrize(
    ("error", "said"), [(UserError("none was found"), "none was found"), (RuntimeError("the device is lost"), "unforeseen: the device is lost")]
)
def test_a_search_for_a_pair_that_fails_is_a_sentence_in_the_panel(visit, monkeypatch, error, said):
    def fails(*_):
        raise error

    monkeypatch.setattr(visit[2], "broken", fails)
    html, *controls = function(visit, "_broken")("swap colours")
    assert said in html
    assert all(control == skipped for control, skipped in zip(controls, [gradio.skip()] * len(controls), strict=True))


def test_a_pair_that_is_found_is_shown_and_set(visit, monkeypatch):
    found = Setting(noun="sun", second_noun="cup", drawing=7)
    monkeypatch.setattr(visit[2], "broken", lambda *_: found)
    html, *controls = function(visit, "_broken")("swap colours")
    assert html == visit[2].twins(found)
    assert controls == [getattr(found, field.name) for field in fields(Setting)]


def test_a_picture_of_the_data_that_is_gone_is_said_to_be(visit, monkeypatch):
    def gone(place):
        raise UserError(f"picture {place} is gone; give other data.")

    monkeypatch.setattr(visit[2], "asked", gone)
    with pytest.raises(gradio.Error, match="picture 0 is gone"):
        function(visit, "choose")(SimpleNamespace(index=0), "", "")

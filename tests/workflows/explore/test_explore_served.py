"""The app as Gradio serves it, asked without a browser: its first answers, and what it must not hand out or fetch."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wholegrain.workflows.embedder import load
from wholegrain.workflows.explore import server
from wholegrain.workflows.explore.gallery import drawn_gallery
from wholegrain.workflows.explore.only_here import OnlyHere
from wholegrain.workflows.explore.panels import Panels

pytest.importorskip("gradio", minversion="6.31")
SECRET = "nobody's business"


@pytest.fixture(scope="module")
def visit():
    """A client of the served app, and the app."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from wholegrain.workflows.explore.app import build

    with server._nothing_kept():
        app = build(Panels([load("base", "cpu")], drawn_gallery(64), 64), str)
        mounted = OnlyHere(server._mounted(FastAPI(), app, "127.0.0.1", 7860), "127.0.0.1")
        with TestClient(mounted, base_url="http://127.0.0.1:7860") as client:
            yield client, app


def asked(visit, data):
    """What the app answers to a question of its first tabs, message by message."""
    client, app = visit
    (number,) = [n for n, event in app.fns.items() if event.name == "answer" and ("load" in [target[1] for target in event.targets])]
    join = {"data": data, "fn_index": number, "session_hash": f"visit{len(str(data))}"}
    assert client.post("/gradio_api/queue/join", json=join).status_code == 200
    answer = client.get("/gradio_api/queue/data", params={"session_hash": join["session_hash"]})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    (done,) = [message for message in map(json.loads, lines) if message["msg"] == "process_completed"]
    return done


def question(picture, captions="a red cup"):
    return ["scores", picture, captions, 1, "each model's own", "the picture"]


def named(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def kept(name):
    """Copies of a file in the folder that Gradio serves from."""
    return list(Path(tempfile.gettempdir()).glob(f"wholegrain-explore-*/**/{name}"))


def test_a_picture_that_is_uploaded_is_answered(visit, tmp_path):
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "mine.png")
    client, _ = visit
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

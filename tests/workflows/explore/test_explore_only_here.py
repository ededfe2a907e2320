"""The app answers its own pages, and no other site's."""

import asyncio

import pytest

from wholegrain.workflows.explore.only_here import OnlyHere

OWN_NAME = "workstation.institute.example"


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-inner", b"1")]})


def answered(at, **headers):
    sent = []

    async def send(message):
        sent.append(message)

    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(OnlyHere(inner, at)({"type": "http", "headers": listed}, None, send))
    return sent[0]


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:7860"}, 200),
        ("127.0.0.1", {"host": "localhost:9000", "origin": "http://localhost:9000"}, 200),
        ("::1", {"host": "[::1]:7860"}, 200),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "origin": "http://other.example"}, 403),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "origin": "null"}, 403),
        ("127.0.0.1", {"host": "other.example:7860"}, 403),
        ("127.0.0.1", {"host": "other.example", "origin": "http://other.example"}, 403),
        ("127.0.0.1", {"host": "[half"}, 403),
        ("127.0.0.1", {}, 403),
        ("0.0.0.0", {"host": "workstation:7860", "origin": "http://workstation:7860"}, 200),
        ("0.0.0.0", {"host": "workstation:7860", "origin": "http://other.example"}, 403),
        ("0.0.0.0", {"host": "192.168.1.5:7860", "origin": "http://192.168.1.5:7860"}, 200),
        ("::", {"host": "[fd00::5]:7860"}, 200),
        ("0.0.0.0", {"host": "workstation.local:7860"}, 200),
        ("0.0.0.0", {"host": OWN_NAME}, 200),
        ("0.0.0.0", {"host": "other.example", "origin": "http://other.example"}, 403),
        ("0.0.0.0", {}, 403),
        ("127.0.0.2", {"host": "127.0.0.2:7860"}, 200),
        ("127.0.0.2", {"host": "other.example"}, 403),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
    ],
)
def test_only_its_own_pages_are_answered(host, headers, status, monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda: OWN_NAME)
    assert answered(host, **headers)["status"] == status


def test_every_answer_forbids_to_ask_other_machines_and_to_be_framed():
    for headers in ({"host": "localhost"}, {"host": "other.example"}):
        sent = dict(answered("127.0.0.1", **headers)["headers"])
        assert sent[b"content-security-policy"].startswith(b"default-src 'self'")
        assert b"frame-ancestors 'none'" in sent[b"content-security-policy"]
    assert dict(answered("127.0.0.1", host="localhost")["headers"])[b"x-inner"] == b"1"

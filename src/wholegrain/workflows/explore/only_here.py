"""What keeps the app to the visitor's browser: no other machine is asked by its pages, and no other page asks it."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]
_ASKED = (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LOCAL = (".local", ".lan", ".internal", ".home.arpa")
"""Ends of names that nobody can register on the internet."""
_REFUSED = b"This app answers its own pages alone; open it by the address that wholegrain explore printed, or by this machine's IP address."


class OnlyHere:
    """An ASGI app around another one: refuses what another site asks, and tells browsers to ask nobody else.

    It must also be asked for by a name of this machine, or where it listens to others by an IP address or a local name: every other name
    could be pointed here by the one who owns it.

    Args:
        app: the ASGI app.
        host: the address at which it listens, an IP address.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._alone = app, ip_address(host).is_loopback
        self._names = _LOOPBACK | {host} if self._alone else {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is refused gets the status 403."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        if scope["type"] == "http" and not self._is_own(dict(scope["headers"])):
            await with_headers({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await with_headers({"type": "http.response.body", "body": _REFUSED})
            return
        await self._app(scope, receive, with_headers)

    def _is_own(self, headers: dict[bytes, bytes]) -> bool:
        asked, origin, site, mode = (headers.get(name, b"").decode("latin-1") for name in _ASKED)
        if site in ("cross-site", "same-site") and mode != "navigate":  # a link is followed; a file of the app in another page is not
            return False
        try:
            return self._is_here(urlsplit(f"//{asked}").hostname or "") and (not origin or urlsplit(origin).netloc == asked)
        except ValueError:
            return False

    def _is_here(self, name: str) -> bool:
        if self._alone or not name or name in self._names:
            return name in self._names
        return ":" in name or "." not in name or name.replace(".", "").isdigit() or name.endswith(_LOCAL)

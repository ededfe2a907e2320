"""What keeps the app to the visitor's browser: no other machine is asked by its pages, and no other page asks it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class OnlyHere:
    """An ASGI app around another one: refuses what another site asks, and tells browsers to ask nobody else.

    Where the app listens at this machine alone, it must also be asked for by one of this machine's names, so that no foreign name can be
    pointed at it.

    Args:
        app: the ASGI app.
        host: the address at which it listens.
    """

    def __init__(self, app: Any, host: str) -> None:
        self._app, self._alone = app, host in _LOOPBACK

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request; what is refused gets the status 403."""

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        if scope["type"] == "http" and not self._is_own(dict(scope["headers"])):
            await with_headers({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await with_headers({"type": "http.response.body", "body": b"This app answers its own pages alone."})
            return
        await self._app(scope, receive, with_headers)

    def _is_own(self, headers: dict[bytes, bytes]) -> bool:
        asked, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        try:
            named = urlsplit(f"//{asked}").hostname
            return (not self._alone or named in _LOOPBACK) and (not origin or urlsplit(origin).netloc == asked)
        except ValueError:
            return False

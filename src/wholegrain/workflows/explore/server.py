"""Serving the app on this machine: no network beside the visitor's browser, and nothing kept when it ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from wholegrain.data.pictures import SUFFIXES
from wholegrain.data.remote import address
from wholegrain.errors import UserError
from wholegrain.progress import Show, nowhere
from wholegrain.workflows.embedder import Embedder, load
from wholegrain.workflows.explore.gallery import drawn_gallery, open_gallery
from wholegrain.workflows.explore.limits import MOST_BYTES, MOST_MODELS
from wholegrain.workflows.explore.only_here import OnlyHere
from wholegrain.workflows.explore.panels import Panels, style

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

FIRST_PORT, LAST_PORT = 7860, 7899
"""Ports that are tried where none is named."""
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_MODEL_FILES = ("model.json", "open_clip_config.json", "config.json", "model", ".model.old", "run.json")


@dataclass(frozen=True)
class ExploreOptions:
    """Where the app is served, and how much of the data is looked at.

    Attributes:
        host: the address to listen at; 127.0.0.1 is reached from this machine alone.
        port: 0 for the first of :data:`FIRST_PORT` to :data:`LAST_PORT` that is free.
        pictures: at most that many of the data.
        device: of the models.
    """

    host: str = "127.0.0.1"
    port: int = 0
    pictures: int = 500
    device: str = "auto"


def models_and_data(words: Sequence[str]) -> tuple[list[str], str]:
    """What of the command's words are models, and the data behind them; empty where the last word is a model, too.

    Data are a prepared data set, a table, or a folder that holds no model.

    Example:
        >>> models_and_data(["base", "photos.csv"])
        (['base'], 'photos.csv')
        >>> models_and_data(["base", "ViT-B-32:openai"])
        (['base', 'ViT-B-32:openai'], '')
    """
    models = list(words)
    data = models.pop() if len(models) > 1 and _is_data(models[-1]) else ""
    return list(dict.fromkeys(models)), data


def _is_data(word: str) -> bool:
    path = Path(word)
    if address(word) or (path / "manifest.json").is_file() or path.suffix.lower() in (*_TABLES, *SUFFIXES):
        return True
    return path.is_dir() and not any(os.path.lexists(path / name) for name in _MODEL_FILES)


def need_gradio() -> None:
    """Raises :class:`UserError` where Gradio is not installed, or is one that the page is not written for."""
    if importlib.util.find_spec("gradio") is not None:
        major, minor = version("gradio").split(".")[:2]
        if int(major) == 6 and int(minor) >= 31:
            return
    raise UserError('explore needs Gradio 6.31 or newer, below 7; install it with: pip install "wholegrain[explore]"')


def open_panels(models: Sequence[str], data: str, options: ExploreOptions, show: Show = nowhere) -> Panels:
    """Loads the models and looks the data up.

    Raises:
        UserError: there is no such model, there are too many, or the data hold no pictures.
    """
    if len(models) > MOST_MODELS:
        raise UserError(f"There are {len(models)} models, and at most {MOST_MODELS} stand side by side; name fewer.")
    loaded = []
    for name in models:
        show(f"loading {name}", 0, 0)
        loaded.append(load(name, options.device))
    size = drawn_size(loaded)
    show("looking for pictures" if data else "drawing scenes", 0, 0)
    panels = Panels(loaded, open_gallery(data, options.pictures) if data else drawn_gallery(size), size)
    panels.warm_up()
    return panels


def drawn_size(models: Sequence[Embedder]) -> int:
    """Side of drawn pictures in pixels: larger for models that look at larger ones; one that does not say is taken for an ordinary CLIP."""
    return 128 if any(getattr(model.model.preprocess, "size", 224) > 96 for model in models) else 64


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address.

    Raises:
        UserError: the port is taken, or the address is none of this machine's.
    """
    reason = ""
    for tried in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        try:
            family = socket.getaddrinfo(host, tried, type=socket.SOCK_STREAM)[0][0]
            bound = socket.create_server((host, tried), family=family)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
            continue
        with bound:
            yield bound
        return
    ports = f"port {port}" if port else f"any of the ports {FIRST_PORT} to {LAST_PORT}"
    raise UserError(f"explore cannot listen at {host}, {ports} ({reason}); name another one by --port, or another --host.")


def serve(panels: Panels, bound: socket.socket, ready: Callable[[str], None], unforeseen: Callable[[Exception], str]) -> None:
    """Serves the app until Ctrl-C or a signal to end.

    Args:
        bound: of :func:`listening`.
        ready: is told the address when the app answers.
        unforeseen: gives a sentence about an error that nobody thought of.
    """
    with _nothing_kept():
        import uvicorn
        from fastapi import FastAPI

        from wholegrain.workflows.explore.app import build

        host, port = bound.getsockname()[:2]
        config = uvicorn.Config(
            OnlyHere(_mounted(FastAPI(), build(panels, unforeseen), host, port), host), log_level="critical", access_log=False, timeout_graceful_shutdown=1
        )
        shown = f"[{host}]" if ":" in host else host

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready(f"http://{shown}:{port}")

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                panels.end()
                super().handle_exit(sig, frame)

        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            Server(config).run(sockets=[bound])
        except KeyboardInterrupt:
            return


def _mounted(home: FastAPI, app: gr.Blocks, host: str, port: int) -> FastAPI:
    import gradio as gr

    from wholegrain.workflows.explore.theme import theme

    mounted = gr.mount_gradio_app(
        home, app, path="", server_name=host, server_port=port, footer_links=[], run_history=False, show_error=False, max_file_size=MOST_BYTES,
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(), css=style(),
    )  # fmt: skip
    app.has_launched = True  # only of launched apps Gradio asks whether a file that a visitor names was uploaded; mounting launches none
    return mounted


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Gradio's files go into a folder that is gone in the end, and Gradio speaks with nobody."""
    with _nothing_fetched(), _files_in_a_temporary_folder():
        yield


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Gradio would download an address that a visitor names in the place of a file, and serve it; there is no need of either."""
    from fastapi import HTTPException
    from gradio import processing_utils, routes

    async def refuse(*_: object) -> NoReturn:
        raise HTTPException(403, "A picture is not named by an address; save it and drop the file.")

    fetches = ((processing_utils, "async_ssrf_protected_get"), (routes, "secure_url_stream_response"))
    before = [getattr(module, name) for module, name in fetches]
    for module, name in fetches:
        setattr(module, name, refuse)
    try:
        yield
    finally:
        for (module, name), fetch in zip(fetches, before, strict=True):
            setattr(module, name, fetch)


@contextmanager
def _files_in_a_temporary_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="wholegrain-explore-", ignore_cleanup_errors=True) as folder:
        told = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

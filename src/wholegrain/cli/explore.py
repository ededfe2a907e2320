"""``wholegrain explore``: ask models about pictures in a browser."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class ExploreArguments:
    """The words and options of ``wholegrain explore``.

    Attributes:
        words: one model or several to compare (a name such as "base" or "ViT-B-32:openai", a folder, a run), and behind them data, if there
            are any: a prepared data set, a folder of pictures, or a table.
        data: the data by an option, where a folder could be a model.
        host: address to listen at; 127.0.0.1 is reached from this machine alone.
        port: by default the first from 7860 that is free.
        pictures: at most that many of the data are looked at.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    words: Positional[tuple[str, ...]]
    data: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    pictures: int = 500
    device: str = "auto"


def explore(args: ExploreArguments) -> None:
    """Ask models about pictures in a browser: captions and false ones, where each word is seen, what is near, and pairs that break a model.

    wholegrain explore base
    wholegrain explore base base,grain=1.5
    wholegrain explore base runs/latest data/scenes

    Everything runs on this machine; pictures and texts of a visitor are not kept.
    """
    import sys

    from wholegrain.errors import UserError
    from wholegrain.progress import showing
    from wholegrain.workflows.explore.server import ExploreOptions, listening, models_and_data, need_gradio, open_panels, serve

    if not args.words:
        raise UserError("wholegrain explore needs a model, such as: wholegrain explore base")
    if args.pictures < 1 or not 0 <= args.port < 65_536:
        raise UserError("--pictures must be at least 1, and --port 1 to 65535 (0 takes the first that is free).")
    need_gradio()
    models, data = models_and_data(args.words) if not args.data else (list(dict.fromkeys(args.words)), args.data)
    options = ExploreOptions(host=args.host, port=args.port, pictures=args.pictures, device=args.device)
    with listening(options.host, options.port) as bound, showing() as show:
        panels = open_panels(models, data, options, show)
        show("starting the app")

        def ready(address: str) -> None:
            show.clear()
            print(f"serving {', '.join(models)} at {address}", flush=True)
            print("next: open it in a browser; Ctrl-C here ends it", flush=True)

        serve(panels, bound, ready, told_to_visitor)
    print("stopped; no picture or text was kept", file=sys.stderr)


def told_to_visitor(error: Exception) -> str:
    """What is said of an error that no panel thought of; its trace is for the owner's eyes, and goes into no file, for it may quote the visitor."""
    import sys
    import traceback

    from wholegrain.cli.failures import foreseen, no_memory

    known = foreseen(error, lambda: 0)
    print(known[0] if known else "".join(traceback.format_exception(error)), file=sys.stderr)
    if known and no_memory(error):
        return known[0]
    return f"This question could not be answered ({type(error).__name__}); ask another one."

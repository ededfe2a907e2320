"""``wholegrain enrich``: captions in roles and hard negatives for a data set, as sidecars."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from wholegrain.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.workflows.enrich import Enriched


@dataclass(frozen=True, kw_only=True)
class EnrichArguments:
    """The words and options of ``wholegrain enrich``.

    Attributes:
        data: a prepared data set in a folder.
        negatives: hard negatives of these kinds, such as object attribute count; of all kinds where none is named.
        per_kind: hard negatives of each kind for each caption, at most; with negclip of all kinds together.
        method: how negatives are made: rules, negclip, ce_clip:MODEL or released_ce_clip:MODEL (a masked language model), or random (as many
            captions of other pictures as there are negatives now; with --replace, best into another folder).
        tagger: a spaCy pipeline for grammar, such as en_core_web_sm; a built-in one by default.
        hard_positives: rewordings that stay true, as test items.
        captions: models that write captions: http://host:8000/v1, NAME@https://host/v1, or a folder or Hugging Face name of a local one.
        prompts: names of prompts, behind a TOML file if they are your own; all of the packaged ones by default.
        out: a folder for the sidecars that shows the same records; by default they lie beside the data.
        splits: by default captions for train, so that tests stay what they were, and all else for all splits.
        seed: of all draws.
        workers: processes (with --ray: actors); 0 is one a core.
        ray: run on the Ray cluster at this address; "local" starts one on this machine.
        gpus: of each Ray actor that holds a model, such as 1 or 0.5.
        max_failed: the share of records, 0 to 1, that may fail.
        replace: put new sidecars in the place of those that were made in another way.
        budget: the most that endpoints may cost, all runs on these data together: tokens (2M), or money (5usd) with --prices.
        prices: of a million tokens in the question and in the answer.
        concurrency: questions under way at a time.
        per_minute: questions a minute, at most; 0 is no limit.
        timeout: seconds to wait for an answer.
        key: the environment variable with the endpoint's key.
        max_side: larger images are made smaller before they are sent; 0 sends them as they are.
        extra: further fields of each question to an endpoint, as JSON, such as '{"top_p": 0.9}'.
        batch: images at a time in a local model.
        device: of a local model, such as cpu or cuda:0; "auto" takes the GPU if there is one.
        audit: look at the quality: counts, coverage, what the texts alone give away, samples on a page.
    """

    data: Positional[Path]
    negatives: tuple[str, ...] | None = None
    per_kind: int = 1
    method: str = "rules"
    tagger: str = ""
    hard_positives: bool = False
    captions: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    out: Path | None = None
    splits: tuple[str, ...] = ()
    seed: int = 0
    workers: int = 0
    ray: str = ""
    gpus: float | None = None
    max_failed: float = 0.05
    replace: bool = False
    budget: str = ""
    prices: tuple[float, float] | None = None
    concurrency: int = 16
    per_minute: float = 0.0
    timeout: float = 120.0
    key: str = "OPENAI_API_KEY"
    max_side: int = 1024
    extra: str = ""
    batch: int = 16
    device: str = "auto"
    audit: bool = False


def enrich(args: EnrichArguments) -> None:
    """Make hard negatives, hard positives and captions for a data set, and keep them as sidecars beside it.

    wholegrain enrich data/photos --negatives --hard-positives --audit

    wholegrain enrich data/photos --captions http://localhost:8000/v1 --prompts detail background nouns

    The same line goes on after an interruption, and asks nothing twice that was paid for.
    """
    from rich.console import Console

    from wholegrain.enrich.captions.endpoint import Endpoint
    from wholegrain.enrich.captions.spending import Limit
    from wholegrain.enrich.runner.progress import Shown
    from wholegrain.enrich.runner.run import Options
    from wholegrain.workflows.enrich import Captioning, EnrichRequest
    from wholegrain.workflows.enrich import enrich as run

    if args.negatives is None and not args.hard_positives and not args.captions and not args.audit:
        raise UserError("Say what to make: --negatives, --hard-positives, --captions MODEL, or --audit to look at what is there.")
    console = Console()
    limit = Limit.of(args.budget, args.prices)
    further = _fields(args.extra)
    endpoint = Endpoint("", "", args.concurrency, args.per_minute, args.timeout, limit=limit, key=args.key, max_side=args.max_side, extra=further)
    request = EnrichRequest(
        args.negatives,
        args.per_kind,
        args.method,
        args.hard_positives,
        args.captions,
        Captioning(args.prompts, args.seed, endpoint, args.batch, args.device),
        args.splits,
        args.seed,
        args.tagger,
    )
    options = Options(args.workers, args.ray, args.gpus, args.max_failed, args.replace, Shown(console))
    try:
        made = run(args.data, request, args.out, options, audit=args.audit)
    except KeyboardInterrupt:
        print("What is done is kept; the same command goes on from there.", file=sys.stderr)
        raise
    _print(made, console)


def _print(made: Enriched, console: Console) -> None:
    """What was made, where it lies, and the next command."""
    for table in made.tables:
        done = f"{table.table}: {table.rows:,} rows of {table.records:,} records"
        failed = f"; {len(table.failures):,} failures are listed in {made.folder / 'enrich' / f'failures-{table.table}.jsonl'}"
        console.print(
            done + (failed if table.failures else "" if table.new else ", there already"), highlight=False, soft_wrap=True
        )
        if table.new:
            console.print(f"written: {made.folder / table.table}.parquet", highlight=False, soft_wrap=True)
    if made.page is not None:
        console.print(f"look at {made.page}", highlight=False, soft_wrap=True)
    for table in made.tables[-1:]:
        console.print(f"next: {_NEXT[table.table].format(made.folder)}", highlight=False, soft_wrap=True)


_NEXT = {
    "captions": "wholegrain train holistic --data {}",
    "negatives": "wholegrain train negclip --data {}",
    "hard_positives": "wholegrain evaluate MODEL --data {} --suite hard_positives",
}


def _fields(text: str) -> dict[str, object]:
    try:
        told = json.loads(text or "{}")
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise UserError(f"--extra {text} is no JSON object; write it as in '{{\"top_p\": 0.9}}'.")
    return told

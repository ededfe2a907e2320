"""``wholegrain prepare``: any image-text source becomes one record format, checked, with a manifest."""

from __future__ import annotations

import shlex
import sys

from wholegrain.workflows.commands.prepare import PrepareArguments


def prepare(args: PrepareArguments) -> None:
    """Prepare a data set: decode every image, join equal ones, list what is wrong, write shards and a manifest.

    wholegrain prepare photos.csv data/photos --caption-column title

    The same command after an interruption goes on where it was.
    """
    from rich.console import Console

    from wholegrain.workflows.commands.prepare import prepare as run

    try:
        manifest = run(args)
    except KeyboardInterrupt:
        print("What is done is kept; the same command goes on from there.", file=sys.stderr)
        raise
    from wholegrain.cli.inspect import print_manifest

    print_manifest(manifest, Console(markup=False))
    counts = ", ".join(f"{its['images']:,} images in {name}" for name, its in manifest["splits"].items())
    Console(markup=False).print(
        f"\n{args.out} is ready: {counts}. Look at it with: wholegrain inspect {shlex.quote(str(args.out))}",
        highlight=False,
        soft_wrap=True,
    )

"""The command line of :mod:`same_bits`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from same_bits.compare import compare, notes
from same_bits.parts import PARTS, chosen, items
from same_bits.record import record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m same_bits", description="Digests of what Wholegrain writes, before and after.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run everything and write the digests")
    one.add_argument("out", type=Path)
    one.add_argument("--jobs", type=int, default=2, help="commands at a time")
    one.add_argument("--keep", type=Path, help="a new folder in which to leave all that was written, to look into")
    two = commands.add_parser("compare", help="exit code 1, and what differs by name, where two records differ")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    for command in (one, two):
        command.add_argument("--only", default=",".join(PARTS), help=f"parts ({', '.join(PARTS)}) or items, as in data,weights/clip")
    given = parser.parse_args()
    only = given.only.split(",")
    if given.command == "compare":
        return _compare(json.loads(given.before.read_text()), json.loads(given.after.read_text()), only)
    if unknown := [one for one in only if not items([one])]:
        parser.error(f"there is no part or item {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    record(given.out, only, given.jobs, given.keep)
    return 0


def _compare(before: dict, after: dict, only: list[str]) -> int:
    for note in notes(before, after):
        print(f"note: {note}")
    one, two = ({name: wrote for name, wrote in record["items"].items() if chosen(only, name)} for record in (before, after))
    found = compare(one, two)
    print("\n".join(found) or f"the same: {len(two)} items, {sum(map(len, two.values()))} digests")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

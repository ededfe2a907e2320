"""Stages for the tests of the runner, and a process that runs them and may be killed: ``python enrich_work.py DATA '{"workers": 2}'``."""

import json
import sys
import time
from collections import Counter

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import HardPositive, Negative
from wholegrain.enrich.runner import units
from wholegrain.enrich.runner.run import Options, enrich
from wholegrain.enrich.runner.stage import Failure, Stage
from wholegrain.errors import UserError


class Backwards(Stage):
    """A negative for each caption: its words backwards, with the number of captions in all data that have its first word."""

    name, table = "backwards", "negatives"

    def __init__(self, seed=0, seconds=0.0, fails=(), breaks=(), name="backwards"):
        self.name, self.seed, self.seconds, self.fails, self.breaks = name, seed, seconds, tuple(fails), tuple(breaks)
        self.identity = {"method": "backwards", "version": "1", "seed": seed}
        self.counts = Counter()

    def fit(self, dataset, keys):
        self.counts = Counter(caption.text.split()[0] for key in keys for caption in dataset.record(key).captions)

    def rows(self, records, pixels):
        time.sleep(self.seconds)
        assert list(pixels) == [None] * len(records)
        if any(record.key in self.breaks for record in records):
            raise ZeroDivisionError("no such thing")
        return [Failure(r.key, "it may not") if r.key in self.fails else self.of(r) for r in records]

    def of(self, record):
        return [
            Negative(
                record.key, c.id, "backwards", f"{' '.join(c.text.split()[::-1])} {self.counts[c.text.split()[0]]}", (), self.name
            )
            for c in record.captions
        ]


class Brightness(Stage):
    """Hard positives that say how bright a picture is, from its pixels."""

    name, table, looks, place = "brightness", "hard_positives", "pixels", "device"

    def __init__(self):
        self.identity = {"method": "brightness"}

    def rows(self, records, pixels):
        return [
            [HardPositive(f"{r.key}:b", "brightness", r.key, (r.captions[0].text, f"{int(p.mean())}"), "dark")]
            for r, p in zip(records, pixels, strict=True)
        ]


def run(folder, size=2, ray="", workers=1, replace=False, max_failed=0.05, cluster=False, **stage):
    """Both stages over all records of a data set, in small units."""
    dataset = Dataset(folder)
    keys = [key for split in dataset.splits for key in dataset.keys(split)]
    options = Options(workers=workers, ray=ray, replace=replace, max_failed=max_failed)
    before = units.SMALLEST, units.SMALLEST_WITH_A_MODEL
    try:
        units.SMALLEST = units.SMALLEST_WITH_A_MODEL = size
        return enrich(dataset, [Backwards(**stage), Brightness()], keys, options)
    finally:
        units.SMALLEST, units.SMALLEST_WITH_A_MODEL = before


if __name__ == "__main__":
    try:
        run(sys.argv[1], **json.loads(sys.argv[2]))
    except UserError as error:
        print(error)
        sys.exit(2)

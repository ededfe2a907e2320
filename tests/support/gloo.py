"""The pool of processes of the package, under the name by which tests know it."""

from wholegrain.verify.pool import MOST, SECONDS, run, stop

__all__ = ["MOST", "SECONDS", "run", "stop"]

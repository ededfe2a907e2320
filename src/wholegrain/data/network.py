"""What comes from the Hugging Face Hub: whether it can be reached is asked once and briefly, and without it its cache on this machine serves.

The Hub's own libraries try each file many times, for minutes, before they look into the cache.
"""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread
from types import ModuleType
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from wholegrain.errors import UserError

SECONDS = 3.0
"""What an address has to answer in, name resolution and proxy included."""
UNFETCHED = (ConnectionError, FileNotFoundError, TimeoutError, URLError)
"""What libraries raise that may not or cannot fetch a file."""


@cache
def reachable(address: str) -> bool:
    """Whether anything answers at a URL, through the proxy that the environment names; asked once in a process."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urlopen(Request(address, method="HEAD"), timeout=SECONDS).close()
        except HTTPError:
            pass  # an answer
        except URLError as error:
            if not isinstance(error.reason, ssl.SSLError):  # a certificate that Python does not know is an answer, too
                return
        except (OSError, ValueError):
            return
        answered.append(True)

    asker = Thread(target=ask, daemon=True)  # names are resolved without a time limit
    asker.start()
    asker.join(SECONDS)
    return bool(answered)


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Gives whether the Hub can be reached; if not, its libraries read their cache alone while this is open, and are quiet."""
    from huggingface_hub import constants, utils

    if not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT):
        yield True
        return
    switches: list[ModuleType] = [constants]
    if "datasets.config" in sys.modules:
        switches.append(sys.modules["datasets.config"])
    before, quiet = [place.HF_HUB_OFFLINE for place in switches], logging.root.manager.disable
    renew = getattr(utils, "reset_sessions", lambda: None)  # sessions of releases before 1 keep what they were made with
    try:
        for place in switches:
            vars(place)["HF_HUB_OFFLINE"] = True
        logging.disable(logging.ERROR)  # the reason is in the exception
        renew()
        yield False
    finally:
        for place, value in zip(switches, before, strict=True):
            vars(place)["HF_HUB_OFFLINE"] = value
        logging.disable(quiet)
        renew()


def unfetched(error: BaseException | None) -> bool:
    """Whether an exception, or one that led to it, says that a file could not be fetched."""
    while error is not None:
        if isinstance(error, UNFETCHED):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_network(what: str, cached: str, instead: str, address: str = "") -> UserError:
    """The one sentence about something that is not here and cannot be fetched."""
    from huggingface_hub import constants

    if not address and constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE forbids to fetch it"
    else:
        why = f"{address or constants.ENDPOINT} cannot be reached"
    return UserError(f"{what} is not in the cache {cached}, and {why}; without a network {instead}")

"""The library transformers, which is not always there, and without its talk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from wholegrain.errors import UserError


def transformers_for(what: str) -> ModuleType:
    """The module.

    Args:
        what: for the sentence: what needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f'{what} needs transformers; install it with: pip install "wholegrain[hf]"') from error
    return transformers


@contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """Without progress bars and remarks on configurations."""
    log = transformers.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()

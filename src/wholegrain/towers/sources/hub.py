"""Files of the Hugging Face Hub, or of its cache on this machine where there is no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wholegrain.data.network import hub_or_cache, no_network, unfetched
from wholegrain.errors import UserError


def not_here(what: str, cached: str = "", address: str = "") -> UserError:
    """A model, or a part of one, that is not in the cache and cannot be fetched."""
    from huggingface_hub import constants

    instead = "use a folder, NAME:FILE, small or base, or fetch it into the cache first"
    return no_network(what, cached or constants.HF_HUB_CACHE, instead, address)


def on_hub(repository: str, name: str) -> Path | None:
    """A file of a repository, fetched; ``None`` where the repository, or without network the cache, does not hold it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with hub_or_cache():
            return Path(hf_hub_download(repository, name))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"there is no repository {repository!r} on the Hub that you may read; check its name and your login"
        ) from error


def from_hub(repository: str, patterns: Sequence[str]) -> Path:
    """A folder with the files of a repository that the patterns name."""
    from huggingface_hub import snapshot_download

    reached = True
    try:
        with hub_or_cache() as reached:
            return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # the hub raises whatever its parts raise
        if not reached and unfetched(error):
            raise not_here(f"hf-hub:{repository}") from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{repository} cannot be fetched ({first}); check the network, or give a folder") from error


def fetch_tokenizer(repository: str) -> Path:
    """The folder of a repository's ``tokenizer.json``."""
    from huggingface_hub import hf_hub_download

    reached = True
    try:
        with hub_or_cache() as reached:
            hf_hub_download(repository, "tokenizer_config.json")
            return Path(hf_hub_download(repository, "tokenizer.json")).parent
    except OSError as error:
        if not reached and unfetched(error):
            raise not_here(f"the tokeniser {repository}") from error
        raise

"""Search in pictures by words or by a picture."""

from wholegrain.workflows.search.search import Hit, Search, SearchOptions, search

__all__ = ["Hit", "Search", "SearchOptions", "search"]

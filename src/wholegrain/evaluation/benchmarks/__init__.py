"""The field's benchmarks, each a reader of its official files with its protocol in the docstring.

::

    items.py        the item that all of them are read into, and averages over parts
    files.py        where files are found, and what is said of those that are not
    pictures.py     picture files by their bytes; ../feature_store.py keeps their features
    scoring.py      the one scorer of pair-wise items; statements.py of single statements; caption_retrieval.py of retrieval
    run.py          benchmarks by name, as a TOML file, or as a function of the user's own
"""

"""Shows that a restructuring changed no bit: digests of what Wholegrain writes, before and after.

It knows the command line and the files that commands write, and nothing else of the package, so that it survives what it is to check::

    PYTHONPATH=src:tools python -m same_bits record before.json
    ... the restructuring ...
    PYTHONPATH=src:tools python -m same_bits record after.json
    PYTHONPATH=src:tools python -m same_bits compare before.json after.json

Both records must be made on one machine with the same libraries. All runs are on the CPU, with one thread a process.
"""

"""``python -m wholegrain`` is the command ``wholegrain``."""

from wholegrain.cli.main import main

if __name__ == "__main__":
    main()

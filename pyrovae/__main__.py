"""``python -m pyrovae``."""

from pyrovae.cli.app import main

if __name__ == "__main__":
    main()

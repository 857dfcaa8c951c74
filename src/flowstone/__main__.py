"""``python -m flowstone`` is ``flowstone``."""

from flowstone.cli import main

if __name__ == "__main__":
    main()

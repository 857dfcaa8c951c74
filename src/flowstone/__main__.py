"""``python -m flowstone`` is ``flowstone``."""

from flowstone.cli import main

main()

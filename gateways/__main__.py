"""``python -m gateways`` is the command ``gateways``."""

from __future__ import annotations

from gateways.cli import main

if __name__ == "__main__":
    main()

"""The command line: `app` wires it, one module a command; `hft_core.cli:main` is the console script."""

from __future__ import annotations

from hft_core.cli.app import main

__all__ = ["main"]

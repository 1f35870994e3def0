"""A plugin file for `startup.py`: ends the process when the first training step is about to begin."""

from __future__ import annotations

import os
import sys

from hft_core import hookimpl


@hookimpl
def hft_stage_started(event: object) -> None:
    sys.stdout.flush()
    os._exit(0)  # at once, as the script that loads by hand: taking a process down is no part of its start

"""`python -m hft_core` is `hft`."""

from __future__ import annotations

import sys

from hft_core.cli import main

sys.exit(main())

"""The combiner does what every combiner of hft has to do."""

from __future__ import annotations

from hft_core.testing import conformance

test_conformance = conformance("hft-db-mtl")

from hft_core.testing import conformance

test_conformance = conformance("hft-applications")

#!/usr/bin/env bash
# Runs on a machine with CUDA what is worth knowing of hft there, in about eight minutes: the tests of this folder, then the
# figures of tests/benchmarks/gpu.py, as JSON into the folder that is given (by default gpu-results).
# HFT_GPU_REHEARSAL=1 tries it out on a CPU, with tiny sizes.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-gpu-results}
mkdir -p "$out"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export HF_HUB_OFFLINE=1
timeout 240 "$python" -m pytest tests/gpu -q -p no:cacheprovider --junit-xml "$out/tests.xml" 2>&1 | tee "$out/tests.txt"
tested=$?
timeout 300 "$python" tests/benchmarks/gpu.py --json "$out/gpu.json" 2>&1 | tee "$out/gpu.txt"
exit $((tested | $?))

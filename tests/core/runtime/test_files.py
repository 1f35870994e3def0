from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hft_core.runtime.files import follow_umask


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    weights, link = tmp_path / "task" / "model.safetensors", tmp_path / "link"
    outside = tmp_path.parent / f"{tmp_path.name}.outside"
    for path in (weights, outside):
        path.write_bytes(b"")
        path.chmod(0o600)
    link.symlink_to(outside)
    before = os.umask(umask)
    try:
        follow_umask(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(weights.stat().st_mode) == mode
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600, "nothing outside the folder is changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "task"]

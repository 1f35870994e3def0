"""The digest of a plugin file covers the modules beside it that it imports."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hft_core.plugins.file_imports import digest_with_imports


def digest(file: Path) -> str:
    return digest_with_imports(file.read_bytes(), file)


def test_a_change_of_an_imported_module_beside_the_file_changes_its_digest(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import torch\nfrom helper import scale\n\ndef build():\n    import package.deep\n")
    alone = digest(plugin)
    assert alone == hashlib.sha256(plugin.read_bytes()).hexdigest()
    (tmp_path / "package").mkdir()
    files = [tmp_path / name for name in ("helper.py", "deeper.py", "package/__init__.py", "package/deep.py")]
    for file in files:
        file.write_text("import deeper\nimport plugin\n")
    (tmp_path / "other.py").write_text("")
    seen = {alone, digest(plugin)}
    for file in files:
        file.write_text("import deeper\nx = 2\n")
        seen.add(digest(plugin))
    assert len(seen) == 2 + len(files)
    (tmp_path / "other.py").write_text("x = 3\n")
    assert digest(plugin) in seen

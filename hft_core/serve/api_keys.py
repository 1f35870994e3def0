"""Read API keys from a file, and compare them in constant time."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from hft_core.errors import UsageError

SHORTEST = 16
"""Characters of a key."""


class ApiKeys:
    """Keys, any of which opens the service; only their hashes are kept."""

    def __init__(self, keys: list[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def accepts(self, authorization: str) -> bool:
        """Return whether a header `Bearer KEY` has one of the keys; takes as long for each wrong one."""
        given = hashlib.sha256(bearer_token(authorization).encode("latin-1", "replace")).digest()
        equal = [hmac.compare_digest(given, each) for each in self._hashes]
        return any(equal)


def bearer_token(authorization: str) -> str:
    """Return the token of a header `Bearer TOKEN`; nothing of another one."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def read_keys(path: Path) -> ApiKeys:
    """Read a file with one key a line; blank lines and lines that begin with `#` are left out. Raises `UsageError`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError) as error:
        raise UsageError(f"--api-key-file {path}: cannot be read ({error})") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    short = next((i for i, line in enumerate(lines, 1) if line in keys and len(line) < SHORTEST), None)
    if short is not None:
        raise UsageError(f"--api-key-file {path}, line {short}: a key has at least {SHORTEST} characters")
    if not keys:
        raise UsageError(f"--api-key-file {path}: there is no key in it; expected one a line")
    return ApiKeys(keys)

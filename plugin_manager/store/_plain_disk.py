"""How the index's database rows become values: plain ones only. Imported when first needed.

diskcache would otherwise unpickle whatever a row says is a pickle (CVE-2025-69872), and read or
remove files by the names that rows hold.
"""

from __future__ import annotations

from diskcache import Disk
from diskcache.core import MODE_RAW

__all__ = ["PlainDisk"]


class PlainDisk(Disk):  # type: ignore[misc]  # diskcache ships no types
    """Keys are text, values are bytes, all within the database."""

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError("a key must be text")
        return key, True

    def get(self, key: object, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise ValueError("the index holds a key that was not put there")
        return key

    def store(
        self,
        value: object,
        read: bool,
        key: object = None,  # noqa: ARG002
    ) -> tuple[int, int, None, bytes]:
        if read or not isinstance(value, bytes):
            raise TypeError("a value must be bytes")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: int, filename: object, value: object, read: bool) -> bytes:
        if mode != MODE_RAW or filename is not None or read or not isinstance(value, bytes):
            raise ValueError("the index holds a value that was not put there")
        return value

    def remove(self, file_path: object) -> None:
        """Nothing: no row of ours has a file."""

"""Notices that files were touched; this class has none, so all files are checked regularly."""

from __future__ import annotations


class Notices:
    """Reports which paths in some folders were touched. Here nothing does, so any may have been.

    :param step: seconds between calls of `read`; 0 to call it when `fileno` is readable.
    """

    def __init__(self, step: float) -> None:
        self.step = step

    def fileno(self) -> int:
        """Return a descriptor that is readable when something was touched."""
        return -1

    def follow(self, folders: set[str]) -> bool:
        """Follow these folders, not those below; return whether any of them is new.

        :raises OSError: if a limit of the system is reached.
        """
        return False

    def read(self) -> set[str] | None:
        """Return the paths that were touched, None if any may have been; do not wait."""
        return None

    def close(self) -> None:
        """Release what this object holds; in a forked child, the child's copies."""

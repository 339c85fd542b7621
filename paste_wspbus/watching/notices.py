"""The base class of notices about touched files; it has none, so all files are checked."""

from __future__ import annotations


class Notices:
    """Reports which paths in some folders were touched.

    This base class gets no notices, so any path may have been touched.

    :param step: seconds between calls of `read`; 0 to call it when `fileno` is readable.
    """

    def __init__(self, step: float) -> None:
        self.step = step

    def fileno(self) -> int:
        """Return a descriptor that is readable when something was touched."""
        return -1

    def follow(self, folders: set[str]) -> bool:
        """Follow these folders, but not those below; return whether any of them is new.

        :raises OSError: if a limit of the system is reached.
        """
        return False

    def read(self) -> set[str] | None:
        """Return the touched paths, without waiting; None if any path may have been touched."""
        return None

    def close(self) -> None:
        """Close what this object holds; in a forked child, close the child's copies."""

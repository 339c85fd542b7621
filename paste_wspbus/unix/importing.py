"""The folders from which root does not import: `sys.path` lacks them until the user changes."""

from __future__ import annotations

import os
import sys

#: Folders that hold installed packages, wherever they are: a buildout's eggs are in the
#: folder of the .ini.
_PACKAGES = ('.egg', '.zip', 'site-packages', 'dist-packages')

#: The entries that were taken out of `sys.path`: (index, entry), the first taken first.
_held: list[tuple[int, str]] = []


def hold_back(site: str | None = None) -> None:
    """As root, take folders of the site out of `sys.path`: imports of servers search there.

    These folders are the working folder, the entries of PYTHONPATH that are relative to
    it, the site's folder and the folders in it. Installed packages stay in `sys.path`.

    :param site: the folder of the .ini, if it is known already.
    """
    if not hasattr(os, 'geteuid') or os.geteuid() != 0:
        return
    folders = _relative_entries()
    for index in reversed(range(len(sys.path))):
        path = os.path.realpath(sys.path[index])
        is_sites = site is not None and _is_below(path, os.path.realpath(site))
        if (path in folders or is_sites) and not _is_installed(path):
            _held.append((index, sys.path.pop(index)))


def give_back() -> None:
    """Put the entries back to their places: the process runs as the user of the site now."""
    while _held:
        sys.path.insert(*_held.pop())


def put_last() -> None:
    """Put the entries to the end of `sys.path`, for a command that only looks for texts there.

    What the command itself imports is found before them.
    """
    sys.path += [entry for _, entry in reversed(_held)]
    _held.clear()


def _relative_entries() -> set[str]:
    """Return the working folder, and the entries of PYTHONPATH that are relative to it.

    Python has made these entries absolute.
    """
    entries = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    relative = ['', *(entry for entry in entries if not os.path.isabs(entry))]
    try:
        return {os.path.realpath(entry) for entry in relative}
    except FileNotFoundError:  # the working folder is gone
        return set()


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_installed(path: str) -> bool:
    """Whether a folder has Python's library, this package or other installed packages."""
    ours = os.path.realpath(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    if path == ours or path.endswith(_PACKAGES):
        return True
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    libraries = [
        os.path.join(os.path.realpath(prefix), name)
        for prefix in prefixes
        for name in ('lib', sys.platlibdir)
    ]
    return any(_is_below(path, library) for library in libraries)

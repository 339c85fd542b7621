"""A file of the site can hide a module of Python that the command needs: this finds it."""

from __future__ import annotations

import os
import sys


def find(error: Exception) -> str | None:
    """Return a file that was imported in the place of another module; None if none was.

    Python searches the folders of PYTHONPATH first. It takes a module anywhere before a
    package without an __init__.py.
    """
    entries = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    folders = {os.path.realpath(entry) for entry in entries}
    folders.discard(os.path.realpath(os.path.dirname(os.__file__)))
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        path = getattr(sys.modules[name], '__file__', None) or ''
        here = os.path.realpath(os.path.dirname(path.removesuffix('/__init__.py')))
        if path and here in folders:
            return path
    package, _, part = str(getattr(error, 'name', '')).partition('.')
    taken = sys.modules.get(package)
    if isinstance(error, ModuleNotFoundError) and part and taken is not None:
        return None if hasattr(taken, '__path__') else getattr(taken, '__file__', None)
    return None

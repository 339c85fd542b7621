"""Folders of modules that this user cannot read: Python says that there is no such module."""

from __future__ import annotations

import os
import sys

from paste_wspbus.errors import WSPBusError


class CannotImport(WSPBusError):
    """A module was not found, and this user cannot read a folder where it may be."""

    def __init__(self, error: ModuleNotFoundError, folder: str) -> None:
        super().__init__(f'{error}: this user cannot read {folder}')


def cannot_import(error: ModuleNotFoundError) -> CannotImport | None:
    """Return the error that names such a folder; None if there is none."""
    folder = unreadable_folder()
    return None if folder is None else CannotImport(error, folder)


def unreadable_folder() -> str | None:
    """Return a folder in `sys.path` that this user cannot read; None if there is none."""
    # Python's own zip file need not be there.
    for folder in (one for one in sys.path if not one.endswith('.zip')):
        try:
            os.scandir(folder or '.').close()
        except PermissionError:
            return folder
        except OSError:  # it does not exist, or it is a zip file
            pass
    return None

"""The files of a folder of reports: a new one is written, and only the newest are kept."""

from __future__ import annotations

import contextlib
import os
import re
import stat

from paste_wspbus.unix.exposed import open_file, place_of

#: The names of reports: the time first, so that their order is that of the names.
NAME = re.compile(r'\d{8}-\d{6}-\d{6}-[a-z]+-[a-z0-9-]+-\d+\.txt').fullmatch

#: The end of the problem of a folder to which this user must not write.
DENIED = ': permission denied'


def problem_of(folder: str) -> str:
    """Return why no report can be written to a folder; '' if one can.

    A file is made there, and removed: the bits of its mode do not say whether a folder
    such as /proc takes files.
    """
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            return f'{folder} is not a folder'
        return f'there is no folder {folder}'
    name = f'.wspserve-{os.getpid()}'
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        os.close(open_file(os.path.join(folder, name), flags, 0o600))
        _remove(folder, [name])
    except PermissionError:
        return f'{folder}{DENIED}'
    except OSError as error:
        return f'{folder} takes no file ({error.strerror or error})'
    return ''


def write(folder: str, name: str, text: str) -> str:
    """Write a new file with the mode 0600; return its path.

    Nothing remains if it cannot be written whole. Root follows no link that others can
    make (see `exposed.open_file`).

    :raises OSError: if it cannot be written.
    """
    path = os.path.join(folder, name)
    fd = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    data = memoryview(text.encode('utf-8', 'backslashreplace'))
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        _remove(folder, [name])
        raise
    finally:
        os.close(fd)
    return path


def keep_newest(folder: str, count: int) -> None:
    """Remove the reports of this user beyond the newest ``count``; other files stay.

    :raises OSError: if the folder cannot be read, or a report cannot be removed.
    """
    with place_of(os.path.join(folder, 'reports')) as (_, there):
        if there is None:
            names = os.listdir(folder)
        else:
            fd = os.open('.', os.O_RDONLY | os.O_DIRECTORY, dir_fd=there)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
    reports = sorted(filter(NAME, names))
    _remove(folder, reports[: max(len(reports) - count, 0)])


def _remove(folder: str, names: list[str]) -> None:
    for name in names:
        path = os.path.join(folder, name)
        with place_of(path) as (at, there), contextlib.suppress(FileNotFoundError):
            status = os.stat(at, dir_fd=there, follow_symlinks=False)
            is_own = not hasattr(os, 'geteuid') or status.st_uid == os.geteuid()
            if stat.S_ISREG(status.st_mode) and is_own:
                os.unlink(at, dir_fd=there)

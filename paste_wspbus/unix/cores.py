"""Core dumps: where the kernel has put that of a process, core(5)."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import time

#: The files in which the system says where core dumps go.
PATTERN, USES_PID = '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/core_uses_pid'

#: Seconds for which a file may be the core dump of a process that has just ended.
FRESH = 120.0


def describe_core(pid: int, folder: str) -> str:
    """Say where the core dump of a process is that has dumped core and ended just now.

    Only a file that is there is named as such. The process may have had another working
    folder, or another root.

    :param folder: the working folder that it probably had.
    """
    pattern = _read(PATTERN)
    if pattern.startswith('|'):
        program = pattern[1:].split(' ')[0]
        hint = f' (coredumpctl info {pid})' if 'systemd-coredump' in program else ''
        return f'its core dump went to {program}{hint}'
    found = _find(pattern, pid, folder)
    if found is not None:
        return f'its core dump is {found}'
    said = f' (core_pattern is {pattern})' if pattern else ''
    return f'it has dumped core{said}'


def _find(pattern: str, pid: int, folder: str) -> str | None:
    """Return the file that the pattern names, if there is one that is new."""
    known = {'%%': '%', '%p': str(pid)}
    parts = re.split('(%.)', pattern)
    wanted = ''.join(
        known.get(part, '*') if part[:1] == '%' else glob.escape(part) for part in parts
    )
    if not pattern:
        return None
    if '%p' not in pattern and _read(USES_PID) == '1':
        wanted += f'.{pid}'
    fresh = []
    for path in glob.glob(os.path.join(glob.escape(folder), wanted)):
        with contextlib.suppress(OSError):
            state = os.lstat(path)
            is_new = time.time() - state.st_mtime < FRESH
            if stat.S_ISREG(state.st_mode) and is_new:
                fresh.append(path)
    return fresh[0] if len(fresh) == 1 else None


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path) as file:
        return file.read().strip()
    return ''

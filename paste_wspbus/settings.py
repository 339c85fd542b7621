"""Settings of a section: texts become values, and a wrong one is told with what is right."""

from __future__ import annotations

import contextlib
import os

from paste_wspbus.errors import SettingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

#: The most worker processes that a site may ask for.
MAX_WORKERS = 1000


def convert(
    conf: dict[str, str], known: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Convert each setting by its function in ``known``.

    :raises SettingError: for one that is unknown (names the nearest), or that
        its function refuses.
    """
    converted = {}
    for key, value in conf.items():
        if key not in known:
            raise SettingError(key, f'unknown setting{nearest(key, known)}')
        try:
            converted[key] = known[key](value)
        except ValueError:
            what = {int: 'a whole number', float: 'a number'}.get(known[key], 'valid')  # type: ignore[call-overload]
            raise SettingError(key, f'{value!r} is not {what}') from None
    return converted


def nearest(word: str, known: Any) -> str:
    """A hint to append to a message: the known word that comes nearest."""
    from difflib import get_close_matches  # for an error alone

    found = get_close_matches(word, list(known), 1, 0.5)
    return f'; did you mean {found[0]!r}?' if found else ''


def working_folder() -> str:
    """The working folder by the links that lead to it, as the shell's ``pwd`` has it.

    A deployment moves such a link: what is read later is to be the new folder's.
    """
    named = os.environ.get('PWD', '') if os.name == 'posix' else ''
    with contextlib.suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, os.curdir):
            return named
    return os.getcwd()


def boolean(text: str) -> bool:
    """PasteDeploy's idea of true and false.

    :raises ValueError: if it is neither.
    """
    word = str(text).strip().lower()
    if word in ('true', 'yes', 'on', 'y', 't', '1'):
        return True
    if word in ('false', 'no', 'off', 'n', 'f', '0'):
        return False
    raise ValueError(text)


def worker_count(text: str) -> int:
    """A number of worker processes: from 0 to `MAX_WORKERS`, or ``auto``: one per CPU.

    :raises ValueError: if it is neither.
    """
    word = text.strip()
    if word.lower() == 'auto':
        return min(cpu_count(), MAX_WORKERS)
    # int() would also take '1_0', other scripts' digits, and any number of them.
    if not (word.isascii() and word.isdigit() and len(word) <= 9):
        raise ValueError(text)
    if int(word) > MAX_WORKERS:
        raise ValueError(text)
    return int(word)


def cpu_count(root: str = '/') -> int:
    """How many CPUs this process may use, at least 1.

    Those of its affinity mask, but not more than the quotas of its control
    group and of those around it (cgroups(7)), rounded up.

    :param root: the folder that /proc and /sys are in.
    """
    if hasattr(os, 'sched_getaffinity'):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(min([count, *_quotas(root)]), 1)


def _quotas(root: str) -> Iterator[int]:
    """The quota of each control group this process is in, in CPUs, rounded up."""
    for folder in _control_groups(root):
        # cgroup v2, then v1: microseconds of CPU time in each period.
        words = _read(f'{folder}/cpu.max').split() or [
            *_read(f'{folder}/cpu.cfs_quota_us').split(),
            *_read(f'{folder}/cpu.cfs_period_us').split(),
        ]
        if len(words) == 2 and all(
            word.isdecimal() for word in words
        ):  # 'max', -1: none
            quota, period = map(int, words)
            if period:
                yield -(-quota // period)


def _control_groups(root: str) -> Iterator[str]:
    """The folders of this process's control groups for CPUs, each with its parents.

    Where a container sees its own group alone, that is the topmost folder,
    whatever path /proc tells.
    """
    for line in _read(os.path.join(root, 'proc/self/cgroup')).splitlines():
        controllers, _, path = line.partition(':')[2].partition(':')
        if controllers and 'cpu' not in controllers.split(','):
            continue
        parts = [part for part in path.split('/') if part and part != '..']
        for mount in {controllers, 'cpu'} if controllers else {''}:
            top = os.path.join(root, 'sys/fs/cgroup', mount)
            for length in range(len(parts) + 1):
                yield os.path.join(top, *parts[:length])


def _read(path: str) -> str:
    try:
        with open(path, encoding='utf-8', errors='surrogateescape') as file:
            return file.read()
    except OSError:
        return ''

"""The CPUs that a process may use."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def cpu_count(root: str = '/') -> int:
    """Return how many CPUs this process may use, at least 1.

    These are the CPUs of its affinity mask, but not more than the quotas of its control
    group and of the groups around it (cgroups(7)), rounded up.

    :param root: the folder that /proc and /sys are in.
    """
    if hasattr(os, 'sched_getaffinity'):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(min([count, *_quotas(root)]), 1)


def _quotas(root: str) -> Iterator[int]:
    """Yield the quota of each control group of this process, in CPUs, rounded up."""
    for folder in _control_groups(root):
        # cgroup v2, then v1: microseconds of CPU time in each period.
        words = _read(f'{folder}/cpu.max').split() or [
            *_read(f'{folder}/cpu.cfs_quota_us').split(),
            *_read(f'{folder}/cpu.cfs_period_us').split(),
        ]
        # 'max' and -1 stand for no quota.
        if len(words) == 2 and all(word.isdecimal() for word in words):
            quota, period = map(int, words)
            if period:
                yield -(-quota // period)


def _control_groups(root: str) -> Iterator[str]:
    """Yield the folders of this process's control groups for CPUs, each with its parents.

    In a container that sees only its own group, this is the topmost folder, whatever path
    /proc shows.
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

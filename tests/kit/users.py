"""Other users, and a root without its privileges."""

import grp
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import waitress

import paste_wspbus
from tests.kit.processes import BIN

#: A program that runs a command without root's capabilities for files (1 and 2 in
#: <linux/capability.h>).
PLAIN_USER = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    for capability in (1, 2):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
"""


AS_PLAIN_USER = [sys.executable, '-c', PLAIN_USER, str(BIN / 'wspserve')]


NOBODY = pwd.getpwnam('nobody')


GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name


AS_NOBODY = ['--user', 'nobody', '--group', GROUP]


def is_for_everybody(path):
    """Whether each user can read a file, or enter a folder."""
    path = Path(path).resolve()
    wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return path.stat().st_mode & wanted == wanted and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in path.parents
    )


def python_for_all():
    """Return a Python that every user can run, and the PYTHONPATH for our packages."""
    libraries = [
        Path(paste_wspbus.__file__).parents[1],
        Path(waitress.__file__).parents[1],
    ]
    for library in libraries:
        assert is_for_everybody(library), f'{library} is not for all users to read'
    # Check the folder of a virtual environment, and that of the standard library.
    if all(map(is_for_everybody, (sys.executable, sys.prefix, os.__file__))):
        return sys.executable, ''
    system = '/usr/bin/python3'
    assert os.path.exists(system), (
        f'{sys.base_prefix} is not for all users to read, and there is no {system}'
    )
    version = subprocess.check_output(
        [system, '-c', 'import sys; print(sys.version_info >= (3, 11))'], text=True
    )
    assert version == 'True\n', f'{system} is older than Python 3.11'
    return system, os.pathsep.join(map(str, libraries))


def identity(pid):
    """Return the user IDs (real, effective, saved, of files), the group IDs, and the groups."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    fields = dict(line.split(':', 1) for line in lines)
    return (
        {int(uid) for uid in fields['Uid'].split()},
        {int(gid) for gid in fields['Gid'].split()},
        sorted(map(int, fields['Groups'].split())),
    )

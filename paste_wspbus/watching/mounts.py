"""The file systems whose changes the kernel does not report: their files are polled."""

from __future__ import annotations

import os
import re

#: The file systems of bind mounts of virtual machines (WSL, VirtualBox, Docker Desktop), and
#: of networks: what is changed on the other side is not reported (inotify(7), "NOTES").
_SILENT = re.compile(
    r'9p|vboxsf|drvfs|nfs\d?|cifs|smb\d?|fuse(\.(grpcfuse|osxfs|sshfs))?'
)


def silent_file_system(folder: str, mounts: str = '/proc/self/mountinfo') -> str:
    """Return the type of the file system of a folder if it does not report changes.

    :param mounts: the file of proc(5) that lists the mounts.
    :returns: such as '9p'; '' if it reports changes, or if the type is not known.
    """
    path, found, longest = os.path.realpath(folder), '', -1
    try:
        with open(mounts, encoding='utf-8', errors='surrogateescape') as lines:
            for line in lines:
                place, kind = _mount(line)
                is_in = path == place or path.startswith(place.rstrip('/') + '/')
                # Of two mounts at one place, the later one is seen.
                if place and is_in and len(place) >= longest:
                    found, longest = kind, len(place)
    except OSError:  # no Linux, or no /proc
        return ''
    return found if _SILENT.fullmatch(found) else ''


def _mount(line: str) -> tuple[str, str]:
    """Return where a line of mountinfo mounts something, and its type; ('', '') if it is wrong."""
    left, _, right = line.partition(' - ')
    words, kind = left.split(), right.split()
    if len(words) < 5 or not kind:
        return '', ''
    # Spaces, tabs, line feeds and backslashes are written in octal.
    place = re.sub(r'\\([0-7]{3})', lambda code: chr(int(code[1], 8)), words[4])
    return place, kind[0]

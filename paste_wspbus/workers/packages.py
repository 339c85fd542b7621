"""The packages of a site: a process imports them once, and forks workers that load the site."""

from __future__ import annotations

import importlib
import os
import select
import stat
import sys
import threading
import warnings
from itertools import islice

from paste_wspbus.watching.files import is_installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_OURS = __name__.partition('.')[0]


def imported(known: Collection[str] = ()) -> list[str]:
    """Return the modules that this process has imported, without the site's own modules.

    :param known: the names to omit.
    :returns: the names in the order of their imports.
    """
    names = []
    for name, module in sys.modules.copy().items():
        if name not in known and name != '__main__' and _origin(name, module):
            names.append(name)
    return names


def _origin(name: str, module: object) -> str:
    """Return the file of a module; '' if it has no file, or is one of the site's own."""
    # Do not use getattr: a lazy module would import itself.
    try:
        spec = object.__getattribute__(module, '__dict__').get('__spec__')
    except AttributeError:
        return ''
    if getattr(spec, 'name', '') != name:  # it is an alias, such as those of six.moves
        return ''
    origin = getattr(spec, 'origin', None)
    if not isinstance(origin, str) or not os.path.isabs(origin):
        return ''
    ours = name.partition('.')[0] == _OURS
    return origin if ours or is_installed(os.path.dirname(origin)) else ''


class Spoiled(Exception):
    """The import of ``name`` makes a fork unsafe; ``why`` says how."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f'{name} {why}')
        self.name, self.why = name, why


def import_all(names: Iterable[str]) -> None:
    """Import each module; ignore errors, which the code that needs the module will see again.

    :raises Spoiled: if a module has started a thread, opened a socket or imported a
        module of the site: this process must not fork any more.
    """
    before = _threads(), _sockets()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the worker has shown the warnings
        for name in names:
            if name not in sys.modules:
                _import(name, *before)


def _import(name: str, threads: int, sockets: int) -> None:
    known = len(sys.modules)
    try:
        importlib.import_module(name)
    except Exception:
        return
    if _threads() > threads:
        raise Spoiled(name, 'starts a thread when it is imported')
    if _sockets() > sockets:
        raise Spoiled(name, 'opens a socket when it is imported')
    for new, module in list(islice(sys.modules.items(), known, None)):
        if _is_the_sites(new, module):
            raise Spoiled(name, f"imports {new}, which is the site's own")


def _is_the_sites(name: str, module: object) -> bool:
    file = getattr(getattr(module, '__spec__', None), 'origin', None)
    if not isinstance(file, str) or not os.path.isabs(file):
        return False
    return name.partition('.')[0] != _OURS and not is_installed(os.path.dirname(file))


def _threads() -> int:
    try:
        return len(os.listdir('/proc/self/task'))
    except OSError:
        return threading.active_count()


def _sockets() -> int:
    try:
        files = os.listdir('/dev/fd')
    except OSError:
        return 0
    return sum(map(_is_socket, map(int, files)))


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:  # listdir() has closed its own descriptor
        return False


#: MADV_POPULATE_WRITE of madvise(2), <linux/mman.h>: it acts like a write to each page
#: (Linux 5.14).
_POPULATE_WRITE = 23


#: The number of bytes that are copied between two looks whether the process is needed.
_AT_ONCE = 1 << 21


def own_memory(orders: int) -> None:
    """Copy now the memory that this forked process shares with its parent.

    Later, each first write to a shared page would cost time: composing a site took five
    times as long without this (in a virtual machine). But to copy all of it takes longer
    than that, so this ends as soon as the process is needed.

    :param orders: a descriptor that can be read when the process is needed.
    """
    if sys.platform != 'linux':
        return
    import ctypes

    madvise = ctypes.CDLL(None).madvise
    try:
        with open('/proc/self/maps') as maps:
            areas = [line.split() for line in maps]
    except OSError:  # a container or a chroot may have no /proc
        return
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    for bounds, rights, _, _, _, *path in areas:
        if rights == 'rw-p' and path in ([], ['[heap]']):
            first, end = (int(bound, 16) for bound in bounds.split('-'))
            for start in range(first, end, _AT_ONCE):
                if poll.poll(0):
                    return
                length = ctypes.c_size_t(min(_AT_ONCE, end - start))
                madvise(ctypes.c_void_p(start), length, _POPULATE_WRITE)

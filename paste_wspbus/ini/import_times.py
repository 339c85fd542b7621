"""The times of the imports of a load, one by one, if the site asks for them."""

from __future__ import annotations

import contextlib
import sys
import time

from paste_wspbus.bus.calls import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType
    from typing import Any

    from paste_wspbus.bus import Bus

#: The channels of the entries that this module adds to a timeline: MODULE is an import
#: that no other
#: module has caused; IMPORTED is a package, with the sum of its own times and no beginning.
MODULE, IMPORTED = 'module', 'imported'

#: Seconds of the shortest import that has a place of its own in a timeline.
SHORTEST = 0.0001

#: The function that the interpreter looks up for each module that is not imported yet.
LOOKED_UP = '_find_and_load'
_IMPORTLIB: dict[str, Any] = vars(sys.modules['_frozen_importlib'])


class ImportTimes:
    """Measures each import of a module in the ``with`` block, as ``python -X importtime`` does.

    ``own`` has, for each module, its seconds without those of the modules that it imports.
    ``outermost`` has each import that no other import has caused: the module,
    time.monotonic(), seconds, 'ok', and the name of the thread.
    """

    def __init__(self) -> None:
        self.own: dict[str, float] = {}
        self.outermost: list[tuple[str, float, float, str, str]] = []
        #: For each thread, a number for each import that runs: the seconds of its own imports.
        self._inside: dict[str, list[float]] = {}
        self._original: Any = None

    def __enter__(self) -> ImportTimes:
        self._original = _IMPORTLIB[LOOKED_UP]
        _IMPORTLIB[LOOKED_UP] = self._import
        return self

    def __exit__(self, *_: object) -> None:
        _IMPORTLIB[LOOKED_UP] = self._original

    def _import(self, name: str, import_: Any) -> ModuleType:
        from threading import current_thread

        thread = current_thread().name
        inside = self._inside.setdefault(thread, [])
        since = time.monotonic()
        inside.append(0.0)
        try:
            return self._original(name, import_)  # type: ignore[no-any-return]
        finally:
            took = time.monotonic() - since
            self.own[name] = self.own.get(name, 0.0) + took - inside.pop()
            if inside:
                inside[-1] += took
            else:
                self.outermost.append((name, since, took, 'ok', thread))


@contextlib.contextmanager
def recorded(bus: Bus) -> Generator[None]:
    """Record the imports of the block in the timeline of a bus, if it has one."""
    with ImportTimes() as times:
        yield
    if not hasattr(bus, 'calls'):
        return
    found = [Call(MODULE, *one[:-1]) for one in times.outermost if one[2] >= SHORTEST]
    sums: dict[str, float] = {}
    for module, seconds in times.own.items():
        package = package_of(module)
        sums[package] = sums.get(package, 0.0) + seconds
    for package, seconds in sums.items():
        found.append(Call(IMPORTED, package, 0.0, seconds))
    bus.calls.load.extend(found)
    bus.calls.count += len(found)


def package_of(module: str) -> str:
    """Return the package by which the distribution of a module is found later.

    :returns: the part before the first dot; of a namespace package, which several
        distributions share, up to three parts; 'builtins' for each module of Python.
    """
    top = module.partition('.')[0]
    if top in sys.stdlib_module_names:
        return 'builtins'
    if getattr(sys.modules.get(top), '__file__', None) is None:
        return '.'.join(module.split('.')[:3])
    return top

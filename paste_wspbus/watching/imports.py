"""The recorder of imports, and of the files that a site hands to other reloaders."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import time
from importlib.machinery import SourceFileLoader

from paste_wspbus.watching.files import is_installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Any

    from paste_wspbus.watching.files import Files, Path

log = logging.getLogger(__name__)

#: Seconds after a save in which bytecode is not safe: Python compares only the source's
#: mtime, in whole seconds, and its size.
RACY = 2.0


class _Loader(SourceFileLoader):
    """A loader that neither reads nor writes the bytecode of a module that was just saved.

    Otherwise a second save with the same size in the same second would never be imported.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        stats = super().path_stats(path)
        if time.time() - stats['mtime'] < RACY:
            raise OSError(errno.ESTALE, 'just saved', path)
        return stats


#: The modules in which other reloaders keep their monitors.
_OTHERS = frozenset(['hupper.worker', 'paste.reloader'])


def missing_modules(error: BaseException | None) -> list[str]:
    """Return the paths where the modules may be that an import has not found.

    :param error: an error; it or a cause of it may be a ModuleNotFoundError.
    """
    paths, seen = [], set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ModuleNotFoundError) and error.name:
            package, _, name = error.name.rpartition('.')
            parent = sys.modules.get(package)
            for folder in getattr(parent, '__path__', ()) if package else sys.path:
                place = os.path.abspath(os.path.join(folder, name))
                if not is_installed(folder):
                    paths += [f'{place}.py', os.path.join(place, '__init__.py')]
        error = error.__cause__ or error.__context__
    return paths


class Recorder:
    """Adds to ``files`` each module that is imported from now on, even if the import fails.

    It is a finder of modules: it notes what the other finders find, before the file is
    read. It also takes the place of the reloader that the site gets from hupper
    (hupper.interfaces.IReloaderProxy), and is a monitor of paste.reloader.

    :param match: a regular expression for the names of the modules to note.
    :param reload: is called when the site asks hupper for a reload.
    :param stop: is called when the site asks hupper to stop it.
    """

    def __init__(
        self,
        files: Files,
        match: str = '.*',
        *,
        reload: Callable[[], object],
        stop: Callable[[], object],
    ) -> None:
        self.files, self.trigger_reload, self.graceful_shutdown = files, reload, stop
        self._noted: set[str] = set()
        self._matches = re.compile(match).match

    def install(self) -> None:
        """Put this finder first into `sys.meta_path`; note the modules that are there now."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name in _OTHERS & set(sys.modules):
            self._stand_in(sys.modules[name])
        self.scan()

    def remove(self) -> None:
        """Remove this finder from `sys.meta_path`, hupper and paste.reloader."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        hupper: Any = sys.modules.get('hupper.worker')
        if hupper is not None and hupper._reloader_proxy is self:
            hupper._reloader_proxy = None
        paste: Any = sys.modules.get('paste.reloader')
        if paste is not None and self._is_monitor(paste):
            paste.Monitor.instances.remove(self)

    def scan(self) -> None:
        """Note the modules that no finder found; call this when composing has ended or failed."""
        for name, module in sys.modules.copy().items():
            if name in self._noted:
                continue
            # Do not use getattr: a lazy module would import itself.
            with contextlib.suppress(AttributeError):
                known = object.__getattribute__(module, '__dict__')
                self._note(name, known.get('__file__'), known.get('__path__'))
        for folder in list(sys.path):
            self.files.add_modules(folder)

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return what the finders after this one find, and note it."""
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            find = getattr(finder, 'find_spec', None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                origin = spec.origin if spec.has_location else None
                self._note(name, origin, spec.submodule_search_locations)
                if name in _OTHERS:
                    _call_after(spec.loader, self._stand_in)
                if type(spec.loader) is SourceFileLoader:
                    path = spec.loader.path
                    if not is_installed(os.path.dirname(path)):
                        spec.loader = _Loader(name, path)
                return spec
        return None

    def _note(self, name: str, file: Any, folders: Any) -> None:
        self._noted.add(name)
        if not self._matches(name):
            return
        if isinstance(file, str) and file:
            self.files.add_module(file)
        # The folders of a namespace package are computed from its parent, which may be gone.
        with contextlib.suppress(KeyError, TypeError):
            for folder in list(folders or ()):
                if isinstance(folder, str):
                    self.files.add_modules(folder)

    # What the site hands to other reloaders

    def _stand_in(self, module: Any) -> None:
        if module.__name__ == 'hupper.worker' and module._reloader_proxy is None:
            module._reloader_proxy = self
        elif module.__name__ == 'paste.reloader' and not self._is_monitor(module):
            module.Monitor.instances.append(self)
            self.watch_files(module.Monitor.global_extra_files)
            for callback in module.Monitor.global_file_callbacks:
                self.add_file_callback(callback)

    def _is_monitor(self, paste: Any) -> bool:
        return self in paste.Monitor.instances

    def watch_files(self, files: Iterable[Path]) -> None:
        """Watch files, folders and globs; this is a method of hupper."""
        for path in files:
            self.files.add(path)

    def watch_file(self, filename: Path) -> None:
        """Watch a file; this is a method of paste.reloader."""
        self.files.add(filename)

    def add_file_callback(self, callback: Callable[[], Iterable[Path]]) -> None:
        """Watch the files that the callback returns; this is a method of paste.reloader."""
        try:
            self.watch_files(callback())
        except Exception:
            log.exception('Error in a callback of paste.reloader')


def _call_after(loader: Any, attach: Callable[[Any], object]) -> None:
    """Call ``attach`` with a module as soon as it is imported."""
    execute = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        attach(module)

    loader.exec_module = exec_module

"""The files of a site, each as it was when the site read it."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib.machinery
import os
import re
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    #: (st_mtime_ns, st_size, st_ino); None for a file that is not there.
    Signature = tuple[int, int, int] | None
    Path = str | os.PathLike[str]
    #: Plain data, for JSON: a list of [kind, path, value]; see `Files.merge`.
    News = list[list[Any]]

#: The names of files that version control, compilers, vim, Emacs, Kate, JetBrains, patch
#: and macOS keep beside a file.
_TEMPORARY = re.compile(
    r'__pycache__|node_modules|\.(git|hg|svn|bzr|tox|nox|venv|idea|hypothesis|.*_cache)'
    r'|4913|.*~|#.*#|\.#.*|\._.*|\..*\.kate-swp|.*___jb_(tmp|old|bak)___'
    r'|.*\.(sw[opx]|tmp|temp|bak|orig|rej|py[co])|\.DS_Store'
)

_SOURCES = (
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.EXTENSION_SUFFIXES,
)

_STDLIB = os.path.dirname(os.path.realpath(os.__file__)) + os.sep


def signature(path: Path) -> Signature:
    """Return values that differ between versions of a file: (st_mtime_ns, st_size, st_ino).

    This is None if there is no such file, or if this process may not read its status.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def is_temporary(name: str) -> bool:
    """Whether an editor, version control or a compiler keeps a file of this name."""
    return _TEMPORARY.fullmatch(name) is not None


@functools.cache
def is_installed(folder: str) -> bool:
    """Whether a folder belongs to the standard library or to installed packages."""
    real = os.path.realpath(folder) + os.sep
    packages = {'site-packages', 'dist-packages'}
    return real.startswith(_STDLIB) or not packages.isdisjoint(real.split(os.sep))


class Glob:
    """The files below ``base`` whose folders and name match ``parts``; ``**`` is any folder."""

    def __init__(self, base: str, parts: Sequence[str]) -> None:
        self.base, self.parts = base, list(parts)

    @classmethod
    def of(cls, path: str) -> Glob | None:
        """Return the glob of a folder (all files in it) or of a path with ``*``, ``?``, ``[]``."""
        if os.path.isdir(path):
            return cls(path, ['**', '*'])
        parts = path.split(os.sep)
        first = next(
            (i for i, part in enumerate(parts) if set(part) & set('*?[')), None
        )
        if first is None or os.path.lexists(path):
            return None
        return cls(os.sep.join(parts[:first]) or os.sep, parts[first:])

    def matches(self, path: str) -> bool:
        """Whether the glob matches a file."""
        names = self._below(path)
        return names is not None and _matches(names, self.parts)

    def goes_into(self, folder: str) -> bool:
        """Whether the glob may match files in a folder."""
        names = self._below(folder)
        return names is not None and (
            '**' in self.parts or len(names) < len(self.parts)
        )

    def _below(self, path: str) -> list[str] | None:
        base = self.base.rstrip(os.sep) + os.sep
        return path[len(base) :].split(os.sep) if path.startswith(base) else None


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not names or not parts:
        return not names and not parts
    if parts[0] == '**':
        return _matches(names, parts[1:]) or _matches(names[1:], parts)
    return fnmatch.fnmatch(names[0], parts[0]) and _matches(names[1:], parts[1:])


class Files:
    """The files of a site, and the folders in which a new file would belong to it.

    One process or thread can hand what it knows to another one: its `news` has what
    `add`, `add_module` and `add_modules` have found, and `merge` takes it in the other.
    Paths are absolute, and symbolic links in them are not resolved.

    ``signatures`` is {path: `signature`}. ``folders`` are the folders to follow.
    ``on_news`` is called, in any thread, when there is something new for `news`; after it
    has returned False, it is called again when there is more.

    :param ignore: globs; files whose paths or names match do not count.
    """

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self.signatures: dict[str, Signature] = {}
        self.folders: set[str] = set()
        self.on_news: Callable[[], object] = lambda: None
        ignored = '|'.join(map(fnmatch.translate, ignore)) or '(?!)'
        self._ignores = re.compile(ignored).match
        # Folders of the site's modules: {path: names in it}; None for a new folder.
        self._modules: dict[str, frozenset[str] | None] = {}
        self._globs: dict[tuple[str, ...], Glob] = {}
        self._trees: set[str] = set()  # the folders of the globs
        self._unsearched: list[str] = []
        # {where links lead, and each link on the way: the links}
        self._targets: dict[str, set[str]] = {}
        self._news: deque[list[Any]] = deque()
        self._announced = False

    # Adding files

    def add(self, path: Path) -> None:
        """Watch a file, a folder with everything in it, or the files that a glob matches.

        Later versions of a file are compared with the present one. A missing file has
        changed when it is made. `search` finds the files of folders and globs.
        """
        path = os.path.abspath(os.fsdecode(path))
        glob = Glob.of(path)
        if glob is None:
            self._learn(path)
        elif self._add_glob(glob):
            self._tell('glob', glob.base, glob.parts)

    def add_module(self, path: str) -> None:
        """Watch the file of a module, or the archive that it is in."""
        path = os.path.abspath(path)
        path = next((one for one in _with_parents(path) if os.path.isfile(one)), path)
        self._learn(path)
        if path.endswith(_SOURCES):
            self.add_modules(os.path.dirname(path))

    def add_modules(self, folder: str) -> None:
        """Watch for new modules in a folder, unless it has installed packages."""
        folder = os.path.abspath(folder)
        if folder in self._modules or is_installed(folder) or not os.path.isdir(folder):
            return
        names = [os.path.basename(path) for path in _entries(folder)]
        self._add_modules(folder, filter(_is_module_name, names))
        self._tell('modules', folder, sorted(self._modules[folder] or ()))

    def _learn(self, path: str) -> None:
        if path not in self.signatures:
            was = signature(path)
            self._know(path, was)
            self._tell('file', path, was)

    def _know(self, path: str, was: Signature) -> None:
        if self._ignores(path) or self._ignores(os.path.basename(path)):
            return
        self.signatures[path] = was
        self._follow(os.path.dirname(path))
        if os.path.islink(path):
            target = os.path.realpath(path)
            self._targets.setdefault(target, set()).add(path)
            self._follow(os.path.dirname(target))
            for link in _links_on(path):  # each of them may be exchanged
                self._targets.setdefault(link, set()).add(path)
                self._follow(os.path.dirname(link))

    def _add_glob(self, glob: Glob) -> bool:
        key = glob.base, *glob.parts
        if is_new := key not in self._globs:
            self._globs[key] = glob
            self._unsearched.append(glob.base)
        return is_new

    def _add_modules(self, folder: str, names: Iterable[str]) -> None:
        self._modules[folder] = frozenset(names) | (self._modules.get(folder) or set())
        self._follow(folder)

    def _follow(self, folder: str) -> None:
        if folder in self.folders:
            return
        self.folders.add(folder)
        for part in _with_parents(folder):
            if os.path.islink(part):  # the link may be changed later
                self._follow(os.path.dirname(part))

    # Handing the files to another process

    def _tell(self, kind: str, path: str, value: Any) -> None:
        self._news.append([kind, path, value])
        if not self._announced:
            self._announced = True
            if self.on_news() is False:
                self._announced = False

    def announce(self, on_news: Callable[[], object]) -> None:
        """Call ``on_news`` from now on, also if the present news were announced already."""
        self.on_news, self._announced = on_news, False

    def news(self) -> News:
        """Return what is new since the last call, as plain data for JSON; [] if nothing is."""
        self._announced = False  # first, so that all later news are announced
        news = []
        while self._news:
            news.append(self._news.popleft())
        return news

    def merge(self, news: News) -> None:
        """Add the `news` of another process; its signatures are those of what it has read.

        The news are ``['file', path, signature]``, ``['modules', folder, names in it]`` and
        ``['glob', folder, parts]``.
        """
        for kind, path, value in news:
            if kind == 'file':
                self._know(path, tuple(value) if value else None)
            elif kind == 'modules':
                self._add_modules(path, value)
            else:
                self._add_glob(Glob(path, value))

    def search(self) -> None:
        """Find the files of the folders and globs that were added."""
        while self._unsearched:
            for path in list(self._walk(self._unsearched.pop())):
                self._know(path, signature(path))

    # Finding changes

    def changed(self, touched: Iterable[str] | None = None) -> dict[str, Signature]:
        """Return the files that have changed: {path: the signature before}.

        The next call compares with the present versions of the files.

        :param touched: paths that may have changed; None if any path may have changed.
        """
        if touched is None:
            suspects, came = set(self.signatures), list(self._all_new())
        else:
            suspects = {one for path in touched for one in self._known_as(path)}
            came = [path for one in touched for path in self._new_at(one)]
        changed: dict[str, Signature] = dict.fromkeys(came)
        for path in suspects:
            was, now = self.signatures[path], signature(path)
            if now == was:
                continue
            changed[path] = was
            if now is None and self._is_wanted(path):
                del self.signatures[path]  # it is new when it comes again
            else:
                self._know(path, now)
        return changed

    def known_in(self, folders: set[str]) -> set[str]:
        """Return the paths that may belong to the site because of what is in these folders.

        :param folders: some of ``folders``.
        """
        if not folders:
            return set()
        found = {
            one for one in list(self.signatures) if os.path.dirname(one) in folders
        }
        for target in list(self._targets):
            if os.path.dirname(target) in folders:
                found.add(target)
        for folder in folders & {*self._modules, *self._trees}:
            found.update(_entries(folder))
        return found

    def _known_as(self, path: str) -> Iterator[str]:
        for known in (path, *self._targets.get(path, ())):
            if known in self.signatures:
                yield known

    def _all_new(self) -> Iterator[str]:
        for folder in [*self._modules, *self._trees]:
            for path in _entries(folder):
                yield from self._new_at(path)

    def _new_at(self, path: str) -> Iterator[str]:
        """If ``path`` is new, yield it, or the files in it, if they belong to the site."""
        folder, name = os.path.split(path)
        if path in self.signatures or is_temporary(name):
            return
        found: list[str] = []
        if folder in self._modules and _is_module_name(name):
            found = self._new_modules(path, self._modules[folder])
        if folder in self._trees and not found:
            found = self._new_in_tree(path)
        for one in found:
            self._know(one, signature(one))
            if one in self.signatures:  # it is not ignored
                yield one

    def _new_modules(self, path: str, known: frozenset[str] | None) -> list[str]:
        if os.path.basename(path) in (known or ()):
            return []
        if path.endswith(_SOURCES):
            return [path] if os.path.isfile(path) else []
        if known is None or path in self._modules or not os.path.isdir(path):
            return []  # do not search below: a new folder may be a cache with many files
        self._modules[path] = None
        self._follow(path)
        return [one for one in _entries(path) if one.endswith(_SOURCES)]

    def _new_in_tree(self, path: str) -> list[str]:
        if self._is_tree(path):
            return [] if path in self._trees else list(self._walk(path))
        return [path] if self._is_wanted(path) and os.path.isfile(path) else []

    def _walk(self, top: str) -> Iterator[str]:
        """Yield the new files in and below a folder that a glob matches."""
        folders = [top]
        for folder in folders:  # this list grows
            self._trees.add(folder)
            self._follow(folder)
            for path in _entries(folder):
                if self._is_tree(path):
                    folders.append(path)
                elif path not in self.signatures and self._is_wanted(path):
                    yield path

    def _is_tree(self, path: str) -> bool:
        goes_into = any(glob.goes_into(path) for glob in self._globs.values())
        temporary = is_temporary(os.path.basename(path))
        return goes_into and not temporary and os.path.isdir(path) and not _loops(path)

    def _is_wanted(self, path: str) -> bool:
        matches = any(glob.matches(path) for glob in self._globs.values())
        return matches and not is_temporary(os.path.basename(path))


def _with_parents(path: str) -> Iterator[str]:
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


#: The number of links on the way to a file at most (path_resolution(7)).
MOST_LINKS = 40


def _links_on(path: str) -> list[str]:
    """Return the links over which a path leads to its file, with the first one."""
    found: list[str] = []
    place, rest = os.sep, [part for part in path.split(os.sep) if part][::-1]
    while rest and len(found) < MOST_LINKS:
        part = rest.pop()
        if part in ('', os.curdir):
            continue
        if part == os.pardir:
            place = os.path.dirname(place)
            continue
        place = os.path.join(place, part)
        try:
            target = os.readlink(place)
        except (OSError, ValueError):  # no link, or nothing
            continue
        found.append(place)
        rest += target.split(os.sep)[::-1]
        place = os.sep if target.startswith(os.sep) else os.path.dirname(place)
    return found


def _entries(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return []  # the folder was removed, or this process may not read it


def _loops(folder: str) -> bool:
    """Whether a folder is a link to one of the folders that contain it."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return target in _with_parents(os.path.realpath(os.path.dirname(folder)))


def _is_module_name(name: str) -> bool:
    """Whether an import statement can have this name; most temporary files have other names."""
    stem, dot, _ = name.partition('.')
    return stem.isidentifier() and (not dot or name.endswith(_SOURCES))


# -- On the terminal ------------------------------------------------------------------


def shown(path: str) -> str:
    """Return a path on one line, relative if it is below the working directory."""
    # The working folder may be gone (OSError), or on another drive (ValueError).
    with contextlib.suppress(OSError, ValueError):
        near = os.path.relpath(path)
        path = path if near.startswith(os.pardir) else near
    return path if path.isprintable() else ascii(path)


def change_of(paths: list[str]) -> str:
    """Return text such as 'a change of site.py' or 'a change of site.py and 2 others'."""
    others = len(paths) - 1
    more = f' and {others} other{"s" * (others > 1)}' if others else ''
    return f'a change of {shown(paths[0])}{more}'


def what_changed(paths: list[str]) -> str:
    """Return text such as 'site.py has changed' or 'site.py and 2 others have changed'."""
    others = len(paths) - 1
    more = f' and {others} other{"s" * (others > 1)} have' if others else ' has'
    return f'{shown(paths[0])}{more} changed'

"""The sources of modules that an .ini names: they are read and parsed, but not imported."""

from __future__ import annotations

import ast
import errno
import os
import sys
import warnings
from importlib.machinery import PathFinder
from importlib.util import find_spec

from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The functions by which a module can get names that its text does not show.
_DYNAMIC = frozenset(['globals', 'vars', 'exec', 'eval', 'setattr', '__getattr__'])


#: Folders in which the site will find modules, and this process does not import any.
site_folders: list[str] = []


class NoModule(Exception):
    """There is no module of this name."""


class Source:
    """The text of a module, as a tree.

    :param path: its file.
    :raises OSError: if it cannot be read.
    :raises SyntaxError, ValueError: if it is not Python.
    """

    def __init__(self, path: str) -> None:
        if not os.path.isfile(path):  # a pipe: reading would wait for a writer
            raise FileNotFoundError(errno.ENOENT, 'it is not a file', path)
        with open(path, 'rb') as file:
            text = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # such as of '\d' in the site's code
            tree = ast.parse(text, path)
        self._top, self._nodes = tree.body, list(ast.walk(tree))
        self.path = path

    def texts(self) -> set[str]:
        """Return all strings of the module, so also the channels that it names."""
        return {
            node.value
            for node in self._nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }

    def names(self) -> set[str] | None:
        """Return all names that the module may define; None if nobody can know them."""
        names: set[str] = set()
        for node in self._nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names |= {
                    (one.asname or one.name).partition('.')[0] for one in node.names
                }
            elif isinstance(
                node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            ):
                names.add(node.name)
            elif isinstance(node, ast.Name):
                names.add(node.id)
        return None if names & {'*', *_DYNAMIC} else names

    def definition(self, name: str) -> ast.FunctionDef | ast.ClassDef | None:
        """Return the only definition of a function or class at the top; None if not sure."""
        found = [
            one
            for one in self._nodes
            if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name == name
        ]
        other = any(
            isinstance(o, ast.Name) and o.id == name and isinstance(o.ctx, ast.Store)
            for o in self._nodes
        )
        return (
            found[0]
            if len(found) == 1 and found[0] in self._top and not other
            else None
        )

    def used_by(self, name: str) -> set[str]:
        """Return the names that a function or class uses, also by others of this module.

        If it is neither at the top of the module, all names may be used.
        """
        tops = {getattr(one, 'name', ''): one for one in self._top}
        used: set[str] = set()
        new = {name} if name in tops else {*tops}
        while new:
            used |= new
            nodes = (node for one in new & tops.keys() for node in ast.walk(tops[one]))
            new = {node.id for node in nodes if isinstance(node, ast.Name)} - used
        return used

    def unknown_channels(
        self, known: Iterable[str], factory: str
    ) -> Iterator[tuple[str, str, int]]:
        """Yield (method, channel, line) for each ``@on`` of a channel that is not known.

        A class that the factory does not use is left out: the section has nothing to do with
        it. A class with other bases than `Plugin` is left out: it may inherit ``channels``.
        """
        used = self.used_by(factory)
        for node in self._nodes:
            if not isinstance(node, ast.ClassDef) or node.name not in used:
                continue
            if set(map(_name, node.bases)) == {'Plugin'}:
                names = {*known, *_declared(node)}
                for method, channel, line in _marked(node):
                    if channel not in names:
                        yield f'{node.name}.{method}', channel, line


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name; '' if it is something else."""
    return getattr(node, 'attr', '') or getattr(node, 'id', '')


def _marked(cls: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    """Yield (method, channel, line) for each ``@on('channel')``."""
    for method, mark in _marks(cls):
        yield method, mark.args[0].value, mark.lineno  # type: ignore[attr-defined]


def _marks(cls: ast.ClassDef) -> Iterator[tuple[str, ast.Call]]:
    for method in cls.body:
        for mark in getattr(method, 'decorator_list', ()):
            if isinstance(mark, ast.Call) and _name(mark.func) == 'on' and mark.args:
                channel = mark.args[0]
                if isinstance(channel, ast.Constant) and isinstance(channel.value, str):
                    yield getattr(method, 'name', ''), mark


def _declared(cls: ast.ClassDef) -> set[str]:
    """Return the strings in the ``channels`` of a class, and its channels for messages."""
    remote = {
        mark.args[0].value  # type: ignore[attr-defined]
        for _, mark in _marks(cls)
        if any(keyword.arg == 'remote' for keyword in mark.keywords)
    }
    return remote | {
        node.value
        for statement in cls.body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def definition_of(module: str, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    """Return the text of a function or class; None if it cannot be found without an import."""
    try:
        file = find_source(module)
        return Source(file).definition(name) if file else None
    except (NoModule, OSError, SyntaxError, ValueError):
        return None


def problem_of(module: str, name: str) -> str:
    """Return what is missing for a function or class; '' if nothing is, or if nobody can know."""
    try:
        file = find_source(module)
        names = Source(file).names() if file else None
    except NoModule:
        return f'there is no module {module!r}'
    except (OSError, SyntaxError, ValueError) as error:
        return f'{module}: {type(error).__name__}: {error}'
    if names is None or name.partition('.')[0] in names:
        return ''
    return f'{module} has no {name!r}{nearest(name, names)}'


def find_source(module: str) -> str | None:
    """Return the file of a module, without importing it or its packages.

    :returns: None if it has no source, or if only its package knows where it is.
    :raises NoModule: if there is no such module or package.
    """
    top, *below = module.split('.')
    try:
        spec = find_spec(top)
    except ValueError:  # it is imported, but has no spec; or the name is ''
        spec = None
    if spec is None:
        spec = PathFinder.find_spec(top, site_folders)
    if spec is None:
        raise NoModule(module)
    folders, file = list(spec.submodule_search_locations or ()), spec.origin
    if below and not folders and module not in sys.modules:
        raise NoModule(module)
    for part in below:
        places = [os.path.join(folder, part) for folder in folders]
        folders = [place for place in places if os.path.isdir(place)]
        files = [os.path.join(place, '__init__.py') for place in folders]
        files += [f'{place}.py' for place in places]
        file = next(filter(os.path.isfile, files), None)
    is_source = file is not None and file.endswith('.py') and os.path.isfile(file)
    return file if is_source else None

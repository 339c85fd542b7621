"""New packages and files from the templates in this folder; nothing is left half made."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from importlib.resources import files
from tempfile import mkdtemp

from paste_wspbus.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from importlib.resources.abc import Traversable

#: The ending of each file of a template, so that no tool takes it for code.
ENDING = '_tmpl'


def make_package(kind: str, name: str, package: str, folder: str) -> list[str]:
    """Make a package from a template: all of it, or nothing.

    :param kind: 'plugin' or 'site'.
    :param name: the name of the distribution; see `names.package_of`.
    :param package: the name of the package in it.
    :param folder: the folder that it gets; it must not exist.
    :returns: the paths of its files, relative to the folder, sorted.
    :raises UsageError: if the folder exists, or cannot be made.
    """
    names = {'project': name, 'package': package, 'dot': '.'}
    return sorted(make_folder(folder, _rendered(kind, names)))


def make_folder(folder: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    """Make a folder of files.

    It is made beside its place and moved there at the end: it is there whole, or not at all.

    :param folder: it must not exist.
    :param texts: the path of each file, relative to the folder, and its text.
    :returns: these paths.
    :raises UsageError: if the folder exists, or cannot be made.
    """
    parent = os.path.dirname(os.path.abspath(folder))
    made = []
    with _refusing(folder):
        refuse_existing(folder)
        unfinished = mkdtemp(prefix='.wspserve-new-', dir=parent)
        try:
            for path, text in texts:
                target = os.path.join(unfinished, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, 'x', encoding='utf-8', newline='\n') as file:
                    file.write(text)
                made.append(path)
            os.chmod(unfinished, 0o777 & ~_umask())
            os.rename(unfinished, folder)
        finally:  # after the rename, there is nothing of this name
            shutil.rmtree(unfinished, ignore_errors=True)
    return made


def make_ini(path: str) -> None:
    """Write a commented .ini.

    :raises UsageError: if the file exists, or cannot be written.
    """
    names = {'name': os.path.basename(path)}
    ((_, text),) = _rendered('ini', names)
    make_files({path: text})


def make_files(texts: Mapping[str, str]) -> None:
    """Write files: all of them, or none.

    :param texts: the text of each path.
    :raises UsageError: if one of the files exists, or cannot be written.
    """
    for path in texts:
        refuse_existing(path)
    made = []
    try:
        for path, text in texts.items():
            with (
                _refusing(path),
                open(path, 'x', encoding='utf-8', newline='\n') as file,
            ):
                made.append(path)
                file.write(text)
                file.flush()
    except BaseException:
        for path in made:
            os.unlink(path)
        raise


def refuse_existing(path: str) -> None:
    """Refuse a path that exists, also a link that leads nowhere.

    :raises UsageError: if it exists.
    """
    if os.path.lexists(path):
        raise UsageError(f'{path} exists: nothing was written')


@contextlib.contextmanager
def _refusing(path: str) -> Generator[None]:
    try:
        yield
    except FileExistsError:
        raise UsageError(f'{path} exists: nothing was written') from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f'{path} cannot be made: {reason}') from None


def _umask() -> int:
    """Return the umask; the system has no way to read it without setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _rendered(kind: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file of a template."""
    for path, file in _files(files('paste_wspbus.templates') / kind, ''):
        path = re.sub(r'\+(\w+)\+', lambda found: names[found[1]], path)
        text = file.read_text(encoding='utf-8')
        text = re.sub(r'\$\{(\w+)\}', lambda found: names[found[1]], text)
        yield path.removesuffix(ENDING), text


def _files(folder: Traversable, at: str) -> Iterator[tuple[str, Traversable]]:
    for one in folder.iterdir():
        path = f'{at}{one.name}'
        if one.is_dir():
            yield from _files(one, f'{path}/')
        elif one.name.endswith(ENDING):
            yield path, one

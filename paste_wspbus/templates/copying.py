"""The samples that a site can begin with: which there are, and copies of them."""

from __future__ import annotations

import itertools
import os
import re
from importlib.resources import files
from typing import NamedTuple

from paste_wspbus.errors import UsageError
from paste_wspbus.templates.making import make_files, make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


class Sample(NamedTuple):
    """An .ini with the modules that it names, or a folder with one .ini."""

    name: str
    #: The first sentence of the .ini.
    summary: str
    #: The .ini first.
    files: list[Traversable]
    is_folder: bool
    #: What serves it, in the folder of the .ini: the first command in its comments.
    command: str


def samples() -> dict[str, Sample]:
    """Return the samples, sorted by their names."""
    found = []
    entries = list((files('paste_wspbus.templates') / 'samples').iterdir())
    modules = [one for one in entries if one.name.endswith('.py')]
    for one in entries:
        if one.is_dir():
            inside = [file for file in one.iterdir() if file.is_file()]
            inis = [file for file in inside if file.name.endswith('.ini')]
            if len(inis) == 1:
                inside.remove(inis[0])
                found.append(_sample(one.name, inis[0], inside, True))
        elif one.name.endswith('.ini'):
            text = one.read_text(encoding='utf-8')
            named = [file for file in modules if _is_named(file.name, text)]
            found.append(_sample(one.name.removesuffix('.ini'), one, named, False))
    return {sample.name: sample for sample in sorted(found, key=lambda one: one.name)}


def _is_named(file: str, ini: str) -> bool:
    """Whether an .ini names something in a module: MODULE:NAME."""
    return bool(re.search(rf'\b{file.removesuffix(".py")}:\w', ini))


def _sample(
    name: str, ini: Traversable, others: list[Traversable], is_folder: bool
) -> Sample:
    lines = ini.read_text(encoding='utf-8').splitlines()
    text = ' '.join(line.strip('#; ') for line in lines[:3] if line[:1] in '#;')
    summary = re.split(r'[.:;] ', text)[0].rstrip('.')
    others = sorted(others, key=lambda file: file.name)
    command = _command(ini.name, lines)
    return Sample(name, summary, [ini, *others], is_folder, command)


def _command(ini: str, lines: list[str]) -> str:
    wanted = rf'[#;] {{2,}}((?:\S.*)?\bwspserve {re.escape(ini)}(?: \S+)*)'
    for line in itertools.takewhile(lambda line: line[:1] in ('#', ';'), lines):
        if found := re.match(wanted, line):
            return found[1]
    return f'wspserve {ini}'


def copy_sample(sample: Sample, path: str | None) -> list[str]:
    """Copy a sample: all of its files, or none. A module that is there already is kept.

    :param path: the path of the .ini, beside which its modules are written; of a sample
        with a folder, the path of the folder. None is its own name, in the working folder.
    :returns: the paths of the files; the .ini comes first.
    :raises UsageError: if one of them exists or cannot be written, or a folder would be
        called .ini.
    """
    texts = {one.name: one.read_text(encoding='utf-8') for one in sample.files}
    if sample.is_folder:
        folder = (path or sample.name).rstrip('/')
        if folder.endswith('.ini'):
            raise UsageError(
                f'{sample.name} is a folder: give its copy a name without .ini'
            )
        return [f'{folder}/{name}' for name in make_folder(folder, texts.items())]
    path = path or sample.files[0].name
    folder = os.path.dirname(path)
    ini, *modules = texts
    made = {path: texts[ini]}
    for name in modules:
        module = os.path.join(folder, name)
        if not _has_text(module, texts[name]):  # another sample may have brought it
            made[module] = texts[name]
    make_files(made)
    return list(made)


def _has_text(path: str, text: str) -> bool:
    try:
        with open(path, encoding='utf-8') as file:
            return file.read() == text
    except (OSError, ValueError):
        return False


def no_sample(name: str, known: dict[str, Sample]) -> UsageError:
    """Return the error for a name that no sample has; it has the names."""
    return UsageError(f'there is no sample {name!r}: choose one of {", ".join(known)}')

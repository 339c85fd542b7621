"""``blame --load``: the site is loaded in a child process; its imports by distribution."""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.blame import SHORTEST, blame_line, in_ms
from paste_wspbus.command.checking import load_in_child
from paste_wspbus.control.timeline import LOAD, Row, own_seconds, rows_of
from paste_wspbus.exits import DONE
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

    from paste_wspbus.command.checking import MakeProcess
    from paste_wspbus.ini.config import Config, Site
    from paste_wspbus.process.launch import Launch

#: The channel of modules that no other module has imported: their times are not the sections'.
MODULE = 'module'

#: The function that the interpreter looks up for each module that is not imported yet.
LOOKED_UP = '_find_and_load'
_IMPORTLIB: dict[str, Any] = vars(sys.modules['_frozen_importlib'])

#: The name of what belongs to no distribution, and is no module of Python.
SITE = "the site's own modules"
PYTHON = "Python's own modules"


def show(config: Config, launch: Launch, make_process: MakeProcess) -> int:
    """Load the site in a child process, and print what that took; start nothing.

    :returns: the exit code: 0, or that of a failed load.
    :raises FactoryError: if the load takes too long, or ends without a result.
    """
    told = load_in_child(config, launch, make_process, _work)
    if 'code' in told:
        return int(told['code'])
    rows = [(Row(*one[:6]), one[6]) for one in told['rows']]
    if launch.options.json:
        said = [
            {'channel': row.channel, 'name': row.name, 'seconds': round(own, 6)}
            for row, own in rows
        ]
        print_answer(json.dumps({'total': told['total'], 'rows': said}, indent=2))
        return DONE
    print_answer(f'The load of the site took {in_ms(told["total"])}:')
    shown = [one for one in rows if one[1] >= SHORTEST or launch.options.verbosity > 1]
    lines = [blame_line(row, own) for row, own in shown]
    if more := len(rows) - len(shown):
        lines.append(f'  {more} more took less than 1 ms each (-v shows them)')
    print_answer('\n'.join(lines))
    return DONE


def _work(load: Callable[[], Site]) -> dict[str, Any]:
    with ImportTimes() as times:
        began = time.monotonic()
        site = load()
        total = time.monotonic() - began
    rows = own_seconds([*rows_of(site.bus, *LOAD), *times.outermost])
    found = [(row, own) for row, own in rows if row.channel != MODULE]
    found += by_distribution(times.own, _distributions())
    found.sort(key=lambda one: one[1], reverse=True)
    return {'rows': [[*row, own] for row, own in found], 'total': total}


class ImportTimes:
    """Measures each import of a module in the ``with`` block, as ``python -X importtime`` does.

    ``own`` has, for each module, its seconds without those of the modules that it imports.
    ``outermost`` has a Row for each import that no other import has caused.
    """

    def __init__(self) -> None:
        self.own: dict[str, float] = {}
        self.outermost: list[Row] = []
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
                self.outermost.append(Row(MODULE, name, since, took, 'ok', thread))


def _distributions() -> Mapping[str, list[str]]:
    """Return the names of the distributions by the top-level name of their modules."""
    return metadata.packages_distributions()


def by_distribution(
    own: Mapping[str, float], known: Mapping[str, list[str]]
) -> list[tuple[Row, float]]:
    """Add up the seconds of modules by the distribution that they belong to.

    :param own: seconds by module.
    :param known: distributions by top-level name.
    """
    sums: dict[str, list[float]] = {}
    for module, seconds in own.items():
        sums.setdefault(distribution_of(module, known), []).append(seconds)
    return [
        (
            Row(
                'import',
                f'{printable(name)} ({_modules(len(each))})',
                0.0,
                sum(each),
                'ok',
                '',
            ),
            sum(each),
        )
        for name, each in sums.items()
    ]


def distribution_of(module: str, known: Mapping[str, list[str]]) -> str:
    """Return the distribution of a module; several may share a namespace package."""
    top = module.partition('.')[0]
    names = [*dict.fromkeys(known.get(top, ()))]
    if not names:
        is_python = top in sys.stdlib_module_names or top == 'encodings'
        return PYTHON if is_python else SITE
    if len(names) == 1:
        return names[0]
    words = module.replace('_', '-').lower().split('.')
    by_word = {name.lower().replace('.', '-').replace('_', '-'): name for name in names}
    for count in range(len(words), 0, -1):
        found = by_word.get('-'.join(words[:count]))
        if found is not None:
            return found
    return f'{top}.*'


def _modules(count: int) -> str:
    return f'{count} module{"s" * (count != 1)}'

"""Imports by distribution, and ``blame --load``: the site is loaded in a child process."""

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
from paste_wspbus.ini.import_times import MODULE, ImportTimes
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.command.checking import MakeProcess
    from paste_wspbus.ini.config import Config, Site
    from paste_wspbus.process.launch import Launch

#: The names of the rows for modules that belong to no distribution.
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
    rows = own_seconds(
        [*rows_of(site.bus, *LOAD), *(Row(MODULE, *one) for one in times.outermost)]
    )
    found = [(row, own) for row, own in rows if row.channel != MODULE]
    found += by_distribution(times.own, distributions())
    found.sort(key=lambda one: one[1], reverse=True)
    return {'rows': [[*row, own] for row, own in found], 'total': total}


def distributions() -> Mapping[str, list[str]]:
    """Return the names of the distributions by the top-level name of their modules."""
    return metadata.packages_distributions()


def by_distribution(
    own: Mapping[str, float], known: Mapping[str, list[str]], counts: bool = True
) -> list[tuple[Row, float]]:
    """Add up the seconds of modules by the distribution that they belong to.

    :param own: seconds by module.
    :param known: distributions by top-level name.
    :param counts: whether to say how many modules of a distribution there are.
    """
    sums: dict[str, list[float]] = {}
    for module, seconds in own.items():
        sums.setdefault(distribution_of(module, known), []).append(seconds)
    rows = []
    for name, each in sums.items():
        shown = printable(name) + (f' ({_modules(len(each))})' if counts else '')
        rows.append((Row('import', shown, 0.0, sum(each), 'ok', ''), sum(each)))
    return rows


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

"""The subcommand ``plan``: what would start, in which order, from where, and when it stops."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys

from paste_wspbus.bus.channels import Channel
from paste_wspbus.bus.deadlines import reserve_of
from paste_wspbus.bus.lifespan import Lifespan
from paste_wspbus.bus.needs import arrange
from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.command.checking import load_in_child
from paste_wspbus.exits import DONE
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.bus.channels import Listener
    from paste_wspbus.command.checking import MakeProcess
    from paste_wspbus.ini.config import Config, Site
    from paste_wspbus.process.launch import Launch

HEADING = ('START', 'PRIORITY', 'NAME', 'FROM', 'ADDED AT', 'STOP')

#: The number of lines of the table at most, and of characters of a name.
MAX_ROWS, MAX_NAME = 500, 100

#: The code that only passes a listener on: the listener was added by its caller.
OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
PASSING = (OURS, contextlib.__file__)


def plan(config: Config, launch: Launch, make_process: MakeProcess) -> int:
    """Load the site in a child process, and print what would start; start nothing.

    :returns: the exit code: 0, or that of a failed load.
    :raises FactoryError: if the load takes too long, or ends without a result.
    """

    def work(load: Any) -> dict[str, Any]:
        # The user of this command may be another one than that of the site.
        sys.dont_write_bytecode = True
        with noting_places() as places:
            site: Site = load()
        return {'rows': [*rows_of(site, places)]}

    told = load_in_child(config, launch, make_process, work)
    if 'code' in told:
        return int(told['code'])
    process = make_process(config, launch, _nothing())
    about = {
        'processes': processes_of(process.workers, config.settings),
        'stop_timeout': config.settings['stop_timeout'],
        'stop_reserve': config.settings['stop_reserve'],
        'drain_delay': config.settings['drain_delay'],
    }
    if launch.options.json:
        said = json.dumps({**about, 'rows': told['rows']}, indent=2)
        print_answer(said, absolute=True)
    else:
        print_answer('\n'.join(lines_of(told['rows'], about)))
    return DONE


def _nothing() -> Any:
    from paste_wspbus.process.inheritance import Inheritance

    return Inheritance()


# -- in the child ----------------------------------------------------------------------


@contextlib.contextmanager
def noting_places() -> Generator[dict[Listener, tuple[str, int]]]:
    """Note from which line of the site each listener is subscribed meanwhile."""
    places: dict[Listener, tuple[str, int]] = {}
    original = Channel.subscribe

    def subscribe(self: Channel, listener: Listener) -> None:
        original(self, listener)
        place = _place_in_site(sys._getframe(1))
        if place is not None:
            places[listener] = place

    Channel.subscribe = subscribe  # type: ignore[method-assign]
    try:
        yield places
    finally:
        Channel.subscribe = original  # type: ignore[method-assign]


def _place_in_site(frame: FrameType | None) -> tuple[str, int] | None:
    """Return the innermost line that is not of this package; None if the loader comes first."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_LOADING):
            return None  # a section of the .ini has added it, or wspserve itself
        if not file.startswith(PASSING) and not file.startswith('<'):
            return os.path.abspath(file), frame.f_lineno
        frame = frame.f_back
    return None


#: The code of this package that calls the factories, or adds listeners itself.
_LOADING = (
    os.path.join(OURS, 'ini', 'composing.py'),
    os.path.join(OURS, 'ini', 'plugins.py'),
    os.path.join(OURS, 'command', ''),
)


def rows_of(
    site: Site, places: dict[Listener, tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """Yield what starts, in order, and then what only stops.

    :returns: dictionaries. ``start`` and ``stop`` are the places in the two orders, from 1,
        or None. ``section`` is that of the .ini; '' stands for wspserve itself.
        ``file`` and ``line`` say where it was added, or where its code is.
    """
    bus = site.bus
    if bus.lifespans.groups:
        arrange(bus)
    starts = [*bus.channel('start').ordered]
    stops = stop_order(bus)
    place_of = {id(listener): n for n, listener in enumerate(stops, 1)}
    owners: dict[int, list[Listener]] = {}
    for listener in stops:
        owners.setdefault(id(listener.owner), []).append(listener)
    # A server that blocks is last.
    ordered = sorted(starts, key=lambda one: one.blocking)
    for number, listener in enumerate(ordered, 1):
        own = owners.pop(id(listener.owner), [])
        numbers = [place_of.pop(id(one)) for one in own]
        yield _row(site, places, listener, number, min(numbers, default=None))
    for listener in stops:
        if id(listener) in place_of:
            yield _row(site, places, listener, None, place_of[id(listener)])


def stop_order(bus: Bus) -> list[Listener]:
    """Return the listeners of 'stop' in their order, as if all lifespans had started."""
    known = [*bus.channel('stop').ordered]
    known += [
        one.stop_listener
        for one in bus.lifespans.values()
        if one.stop_listener not in known
    ]
    return sorted(known, key=lambda one: one.stop_place)


def _row(
    site: Site,
    places: dict[Listener, tuple[str, int]],
    listener: Listener,
    start: int | None,
    stop: int | None,
) -> dict[str, Any]:
    owner = listener.owner
    section = site.origins.get(listener.name, '')
    if owner is site.server:
        section = 'server:main'
    file, line = places.get(listener) or _definition(listener) or (None, None)
    if file is not None and file.startswith(OURS):
        file = line = None
    group = site.bus.lifespans.groups.get(
        owner.name if isinstance(owner, Lifespan) else section.partition(':')[2]
    )
    return {
        'start': start,
        'stop': stop,
        'priority': listener.priority,
        'name': printable(listener.name[:MAX_NAME]),
        'section': section,
        'file': file,
        'line': line,
        'needs': [*(group.needs if group is not None else ())],
        'timeout': listener.timeout,
        'blocks': listener.blocking,
    }


def _definition(listener: Listener) -> tuple[str, int] | None:
    """Return where the code of a listener begins; None if it is not Python, or unknown."""
    owner = listener.owner
    code: Any = owner._make if isinstance(owner, Lifespan) else listener.callback
    try:
        code = inspect.unwrap(code)
        code = getattr(code, '__code__', None) or type(code).__init__.__code__
        return os.path.abspath(code.co_filename), code.co_firstlineno
    except (AttributeError, ValueError):
        return None


# -- in the parent ---------------------------------------------------------------------


def processes_of(workers: int, settings: dict[str, Any]) -> str:
    """Return which processes there would be, as a sentence."""
    once = ', '.join(settings['site_plugins'])
    elsewhere = ', '.join(settings.get('cluster_plugins') or ())
    if not workers:
        return 'One process runs the site.'
    who = '1 worker: it' if workers == 1 else f'{workers} workers: each'
    apart = ', without the plugins that run once' if once or elsewhere else ''
    said = f'{who} starts and stops what follows{apart}.'
    if settings['preload']:
        said = f'One process loads the site, and forks {said}'
    if once:
        said += f' The site plugins ({once}) run once, in a process of their own.'
    if elsewhere:
        said += f' The cluster plugins ({elsewhere}) run once for all machines.'
    return said


def lines_of(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[str]:
    """Return the plan as lines for people."""
    table = [HEADING, *(_cells(row) for row in rows[:MAX_ROWS])]
    lines = [about['processes'], '', *in_columns(table)]
    if more := len(rows) - MAX_ROWS:
        lines += [f'{more} more are left out: --json shows all'] if more > 0 else []
    limit = about['stop_timeout']
    reserve = reserve_of(limit, about['stop_reserve'])
    said = f'A stop may take {limit:g} s (stop_timeout)'
    said += f': the last {reserve:g} s are for what stops after the server.'
    if about['drain_delay']:
        said += f' It begins {about["drain_delay"]:g} s after the drain (drain_delay).'
    return [*lines, '', said]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row, as texts."""
    start, stop = (str(row[key] or '-') for key in ('start', 'stop'))
    name = row['name']
    if row['needs']:
        name += f' (needs {", ".join(row["needs"])})'
    place = f'{_short(row["file"])}:{row["line"]}' if row['file'] else '-'
    section = f'[{row["section"]}]' if row['section'] else 'wspserve'
    return start, f'{row["priority"]:g}', name, section, place, stop


def _short(path: str) -> str:
    """Return a path below the working folder relative to it."""
    folder = os.path.join(os.getcwd(), '')
    return printable(path.removeprefix(folder))

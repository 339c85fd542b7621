"""What `status` prints of a site that has answered: lines of 80 columns, and their styles."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

from paste_wspbus.command.answer import in_columns
from paste_wspbus.command.health_text import failing
from paste_wspbus.control.status import (
    in_flight,
    number,
    plural,
    request_text,
    requests_of,
    text,
    texts,
    what_it_waits_for,
    workers_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: The number of columns to which tables are cut and sentences are folded.
WIDTH = 80

#: The number of requests in flight that are shown.
SHOWN = 5

#: Seconds for which a crash is shown as news.
NEW = 60.0

#: The styles of lines, which a terminal may show in colours.
PLAIN, HEADING, GOOD, BUSY, BAD = 'plain', 'heading', 'good', 'busy', 'bad'

#: The style of a worker in a state; others are BUSY.
_STYLES = {'ready': GOOD, 'crashed': BAD, 'stopped': BAD, 'no answer': BAD}


#: The states of a worker that should answer and does not.
SILENT = 'stopped', 'no answer'


class Line(NamedTuple):
    """A line of the answer, and its style."""

    text: str
    style: str = PLAIN


def describe(
    answer: dict[str, Any], pid: int | None, width: int = WIDTH, *, folds: bool = True
) -> list[Line]:
    """Return what `status` prints of a site; nothing in it can change the terminal.

    :param answer: what the site has answered; it may come from another version, or be
        nonsense.
    :param pid: the process that the system has named; None stands for that of the answer.
    :param width: the number of columns of tables.
    :param folds: whether sentences are folded, too.
    """

    def fold(lines: list[Line]) -> list[Line]:
        return list(_folded(lines, width)) if folds else lines

    blocks = [
        fold(_first(answer, pid, workers := workers_of(answer))),
        _workers(workers, width) if workers else _one_process(answer),
        fold(_in_backlog(answer, workers)),
        fold(_silent(workers)),
        fold([Line(one, BAD) for one in failing(answer)]),
        _crashes(workers, width),
        fold(_replaced(workers)),
        fold(_recycled(workers)),
        _requests(answer, width),
        fold(_counted(answer)),
        fold(_cluster(answer)),
        fold(_plugins(answer, workers)),
        fold(_what_happens(answer)),
    ]
    lines: list[Line] = []
    for block in filter(None, blocks):
        lines += [Line(''), *block] if lines else block
    return lines


def _folded(lines: list[Line], width: int) -> Iterator[Line]:
    """Fold what is longer than a line; URLs stay whole."""
    for line in lines:
        # A number stays beside its unit.
        glued = re.sub(r'(\d) s\b', '\\1\xa0s', line.text)
        for part in textwrap.wrap(
            glued, width, break_long_words=False, break_on_hyphens=False
        ):
            yield Line(part.replace('\xa0', ' '), line.style)


# -- the first lines --------------------------------------------------------------------


#: What a site that does not serve now does at its addresses; '' if nothing.
DOES = {
    'STARTING': 'It will serve on',
    **dict.fromkeys(('STOPPED', 'STOPPING', 'EXITING'), ''),
}


def _first(
    answer: dict[str, Any], pid: int | None, workers: list[dict[str, Any]]
) -> list[Line]:
    state = text(answer.get('state', 'running'))
    line = f'The site is {"running" if state == "STARTED" else state.lower()}'
    line += f' (process {pid or text(answer.get("pid"))})'
    age = number(answer, 'age')
    line += '' if age is None else f', for {age_text(age)}'
    style, lack = GOOD if state == 'STARTED' else BUSY, []
    if workers:
        line += f': generation {text(answer.get("generation"))}'
        serving, wanted = _counts(answer, workers)
        if wanted and serving == wanted:
            line += f', {plural(wanted, "worker")}'
        elif wanted:
            verb = 'serves' if wanted == 1 else 'serve'
            some = f'{serving} of {plural(wanted, "worker")} {verb}.'
            lack = [Line(some, BUSY if serving else BAD)]
    does = DOES.get(state, 'Serving on')
    urls = [Line(f'{does} {url}') for url in texts(answer, 'urls') if does]
    return [Line(f'{line}.', style), *lack, *urls]


def _counts(answer: dict[str, Any], workers: list[dict[str, Any]]) -> tuple[int, int]:
    """Return how many workers serve, and how many should; 0 and 0 without any."""
    numbers = {text(one.get('number')) for one in workers} - {'?'}
    serving, wanted = number(answer, 'serving'), number(answer, 'wanted')
    if serving is not None and wanted is not None:
        # One process that is only watched is no worker, but it may not serve.
        is_counted = numbers or serving != wanted
        return (int(serving), int(wanted)) if is_counted else (0, 0)
    # An earlier version does not say it.
    ready = (one for one in workers if one.get('state') == 'ready')
    return len({text(one.get('number')) for one in ready} - {'?'}), len(numbers)


# -- tables -----------------------------------------------------------------------------


def _workers(workers: list[dict[str, Any]], width: int) -> list[Line]:
    generations = {text(worker.get('generation')) for worker in workers}
    rows, styles = [_heading(len(generations) > 1)], [HEADING]
    for worker in workers:
        state = _state(worker)
        name, pid = text(worker.get('name')), text(worker.get('pid'))
        generation = [text(worker.get('generation'))] * (len(generations) > 1)
        age = number(worker, 'age')
        age_cell = '?' if age is None else short_age(age)
        unknown = '?' if state in SILENT else '-'  # other processes have none
        load = _load(worker, unknown)
        rows.append((name, pid, state, *generation, age_cell, *load))
        styles.append(_STYLES.get(state, BUSY))
    return [*map(Line, _fitting(rows, width), styles)]


def _heading(has_generations: bool) -> tuple[str, ...]:
    return 'WORKER', 'PROCESS', 'STATE', *['GEN'] * has_generations, 'AGE', *_LOAD


#: The columns of what a process does.
_LOAD = 'SERVED', 'IN FLIGHT', 'BUSY/THREADS', 'QUEUED', 'RSS'


def _load(process: dict[str, Any], unknown: str = '?') -> tuple[str, ...]:
    requests = process.get('requests')
    flying = unknown
    if number(process, 'served') is not None or requests:
        flying = str(in_flight(process))
    busy, threads = (
        _count(process, key, unknown) for key in ('busy', 'server_threads')
    )
    return (
        _count(process, 'served', unknown),
        flying,
        busy if threads == unknown else f'{busy}/{threads}',
        _count(process, 'queued', unknown),
        size_text(number(process, 'rss'), unknown),
    )


def _count(process: dict[str, Any], key: str, unknown: str = '?') -> str:
    value = number(process, key)
    return unknown if value is None else f'{value:.0f}'


def _state(worker: dict[str, Any]) -> str:
    state = text(worker.get('state'))
    if worker.get('is_stopped') is True:
        return 'stopped'
    silent = state == 'ready' and not isinstance(worker.get('requests'), list)
    return 'no answer' if silent else state


def _one_process(answer: dict[str, Any]) -> list[Line]:
    if number(answer, 'served') is None:
        return []  # an earlier version does not say it
    heading, row = in_columns([_LOAD, _load(answer)])
    return [Line(heading, HEADING), Line(row)]


def _fitting(rows: list[tuple[str, ...]], width: int) -> list[str]:
    """Return a table whose columns stand nearer to each other if it is too wide."""
    lines = in_columns(rows)
    if max(map(len, lines)) > width:
        lines = in_columns(rows, gap=1)
    return [cut(line, width) for line in lines]


# -- what is wrong ----------------------------------------------------------------------


def _in_backlog(answer: dict[str, Any], workers: list[dict[str, Any]]) -> list[Line]:
    """Return a line on the connections that wait for all workers, beside QUEUED of each."""
    each = sum(number(worker, 'queued') or 0 for worker in workers)
    waiting = (number(answer, 'queued') or 0) - each if workers else 0
    if waiting <= 0:
        return []
    return [Line(f'Connections that no worker has accepted yet: {waiting:.0f}.', BUSY)]


def _silent(workers: list[dict[str, Any]]) -> list[Line]:
    lines = []
    for worker in workers:
        state = _state(worker)
        who = f'{text(worker.get("name"))} does not answer'
        if state == 'stopped':
            why = worker.get('why_stopped')  # an earlier version does not say it
            who += f': {text(why)}.' if why else ': a signal has stopped it.'
        elif state == 'no answer':
            who += ': it hangs, or it is very busy. `stacks` shows where.'
        else:
            continue
        lines.append(Line(who[0].upper() + who[1:], BAD))
    return lines


def _crashes(workers: list[dict[str, Any]], width: int) -> list[Line]:
    rows: dict[str, tuple[str, ...]] = {}
    styles: dict[str, str] = {}
    for worker in workers:
        last = worker.get('last_crash')
        if isinstance(last, dict):
            name = text(worker.get('name'))
            rows[name] = name, _count(worker, 'restarts'), _crash(last)
            is_new = (number(last, 'age') or 0) < NEW
            styles[name] = BAD if is_new else PLAIN
    if not rows:
        return []
    heading, *others = in_columns(
        [('WORKER', 'RESTARTS', 'LAST CRASH'), *rows.values()]
    )
    lines = [Line(heading, HEADING)]
    cuts = (cut(other, width) for other in others)
    return [*lines, *map(Line, cuts, styles.values())]


def _recycled(workers: list[dict[str, Any]]) -> list[Line]:
    lines = {}
    for worker in workers:
        last, count = worker.get('last_recycling'), number(worker, 'recycled') or 0
        if isinstance(last, dict):
            name = text(worker.get('name'))
            times = 'once,' if count < 2 else f'{count:.0f} times, the last one'
            age = number(last, 'age')
            when = 'at an unknown time' if age is None else f'{age_text(age)} ago'
            why = text(last.get('why')).replace('has served', 'served', 1)
            line = f'{name} was recycled {times} {when}: it {why}.'
            lines[name] = Line(line[0].upper() + line[1:])
    return [*lines.values()]


def _replaced(workers: list[dict[str, Any]]) -> list[Line]:
    """Return the lines on workers that were replaced because they were ill."""
    lines = {}
    for worker in workers:
        last, hung = worker.get('last_replacement'), number(worker, 'hung') or 0
        if not isinstance(last, dict):
            continue
        name, age = text(worker.get('name')), number(last, 'age')
        when = 'at an unknown time' if age is None else f'{age_text(age)} ago'
        hangs = last.get('why') == 'hang'
        why = 'it hung' if hangs else 'it had an overdue request'
        request, report = last.get('request'), last.get('report')
        why += f' ({text(request)})' if request else ''
        where = f'Its report: {text(report)}' if report else 'See the log.'
        line = f'{name[:1].upper()}{name[1:]} was replaced {when}: {why}. {where}'
        line += f' It has hung {hung:.0f} times.' if hangs and hung > 1 else ''
        lines[name] = Line(line, BAD if age is None or age < NEW else PLAIN)
    return [*lines.values()]


def _counted(answer: dict[str, Any]) -> list[Line]:
    """Return a line on slow and overdue requests, if there were some."""
    counts = (
        (number(answer, f'{what}_requests') or 0, what) for what in ('slow', 'overdue')
    )
    parts = [
        f'{plural(int(count), f"{what} request")}'
        for count, what in counts
        if count >= 1
    ]
    if not parts:
        return []
    return [Line(f'{" and ".join(parts)} since the start: the log says where.')]


def _cluster(answer: dict[str, Any]) -> list[Line]:
    if not answer.get('cluster'):
        return []
    from paste_wspbus.command.cluster_text import in_brief  # few sites have one

    return in_brief(answer['cluster'])


def _plugins(answer: dict[str, Any], workers: list[dict[str, Any]]) -> list[Line]:
    """Return a line on each plugin that says what it does."""
    lines = []
    for process in (answer, *workers):
        states = process.get('plugins')
        for name, state in states.items() if isinstance(states, dict) else ():
            if not isinstance(state, dict) or state.get('runs_here') is False:
                continue
            where = f' ({text(process.get("name"))})' * (process is not answer)
            line = f'{text(name)}{where}: {text(state.get("text"))}.'
            lines.append(Line(line, BAD if state.get('ok') is False else PLAIN))
    return lines


def _crash(last: dict[str, Any]) -> str:
    age = number(last, 'age')
    when = 'at an unknown time' if age is None else f'{age_text(age)} ago'
    what = f'{when}: {text(last.get("how"))}'
    rss, rss_age = number(last, 'rss'), number(last, 'rss_age') or 0.0
    if rss and rss_age < NEW and last.get('signal') == 'SIGKILL':
        what += f' with {size_text(rss)}'
    if last.get('out_of_memory') is True:
        what += ', perhaps out of memory'
    if requests := requests_of(last):
        what += f'; in flight: {_request(requests[0])}'
        what += f' and {len(requests) - 1} more' * (len(requests) > 1)
    return what


def _what_happens(answer: dict[str, Any]) -> list[Line]:
    lines = []
    if answer.get('drained') is True:
        drained = 'It is drained: bus.drained is true (undrain ends that).'
        lines.append(Line(drained, BUSY))
    if loop := answer.get('crash_loop'):
        loop = text(loop)
        lines.append(Line(f'{loop[:1].upper()}{loop[1:]}.', BAD))
    if answer.get('is_crashed'):
        lines.append(Line('It has crashed, and is about to be started again.', BAD))
    if answer.get('calling') or answer.get('threads'):
        waits = what_it_waits_for({**answer, 'requests': [], 'workers': []})
        lines.append(Line(waits[0].upper() + waits[1:], BUSY))
    if (trial := number(answer, 'trial')) is not None:
        line = f'Another process loads the new code, for {age_text(trial)} now.'
        lines.append(Line(line, BUSY))
    soak = answer.get('soak')
    if isinstance(soak, dict):
        lines.append(_soak(soak))
    last = answer.get('last_reload')
    if isinstance(last, dict):
        lines.append(_reload(last))
    elif answer.get('failure'):
        failure = ' '.join(str(answer['failure']).split())
        lines.append(Line(f'The last reload failed: {text(failure)}', BAD))
    return lines


def _soak(soak: dict[str, Any]) -> Line:
    worker, generation = text(soak.get('worker')), text(soak.get('generation'))
    remaining = number(soak, 'remaining') or 0.0
    who = f'{worker[:1].upper()}{worker[1:]} of generation {generation}'
    return Line(
        f'{who} serves beside the old workers, for {remaining:.1f} s more (soak).', BUSY
    )


def _reload(last: dict[str, Any]) -> Line:
    age, took = number(last, 'age'), number(last, 'took')
    when = 'at an unknown time' if age is None else f'{age_text(age)} ago'
    by, outcome = text(last.get('asked_by')), text(last.get('outcome'))
    if outcome == 'in progress':
        since = '' if age is None else f' for {age_text(age)}'
        be = 'has been' if since else 'is'
        return Line(f'A reload by {by} {be} in progress{since}.', BUSY)
    took_text = '' if took is None else f' after {took:.1f} s'
    line = f'The last reload, {when}, by {by}, {outcome}{took_text}'
    if outcome != 'failed':
        return Line(f'{line}.')
    reason = ' '.join(str(last.get('reason')).split())
    return Line(f'{line}: {text(reason)}', BAD)


# -- the requests -------------------------------------------------------------------------


def _requests(answer: dict[str, Any], width: int) -> list[Line]:
    requests, count = requests_of(answer), in_flight(answer)
    if not requests:
        return []
    first = f'{plural(count, "request")} in flight'
    first += f', the oldest {SHOWN}:' if count > SHOWN else ':'
    rows: list[tuple[str, ...]] = [
        (
            _age_of(one),
            text(one.get('worker', '')),
            text(one.get('thread', '')),
            _request(one),
            text(one.get('id') or ''),
        )
        if isinstance(one, dict)
        else ('', '', '', request_text(one), '')
        for one in requests[:SHOWN]
    ]
    lines = _without_empty(rows)
    if max(map(len, lines)) > width:
        lines = _without_empty([row[:-1] for row in rows])
    return [Line(first), *(Line(cut(line, width)) for line in lines)]


def _without_empty(rows: list[tuple[str, ...]]) -> list[str]:
    """Return an indented table without the columns that are empty in each row."""
    kept = [column for column in zip(*rows, strict=True) if any(column)]
    return [f'  {line}' for line in in_columns(list(zip(*kept, strict=True)))]


def _request(request: Any) -> str:
    if not isinstance(request, dict):
        return request_text(request)
    return f'{text(request.get("method"))} {text(request.get("path"))}'


def _age_of(request: dict[str, Any]) -> str:
    age = number(request, 'age')
    return '?' if age is None else f'{age:.1f} s'


# -- texts ----------------------------------------------------------------------------------


def cut(line: str, width: int) -> str:
    """Return a line of at most ``width`` characters, with … in the place of the rest."""
    return line if len(line) <= width else f'{line[: width - 1]}…'


def age_text(seconds: float) -> str:
    """Return an age in the largest unit that it has at least two of: '3 days'."""
    for unit, length in (('day', 86400), ('hour', 3600), ('minute', 60)):
        if seconds >= 2 * length:
            return plural(int(seconds // length), unit)
    return plural(max(round(seconds), 0), 'second')


def short_age(seconds: float) -> str:
    """Return an age for a table: '3d', '5h', '7m' or '59s'."""
    count, unit, *_ = age_text(seconds).split(' ')
    return f'{count}{unit[0]}'


def size_text(size: float | None, unknown: str = '?') -> str:
    """Return a number of bytes for a table, such as '45M' and '1.2G'."""
    if size is None or size < 0:
        return unknown
    megabytes = size / (1 << 20)
    return f'{megabytes:.0f}M' if megabytes < 1000 else f'{megabytes / 1024:.1f}G'

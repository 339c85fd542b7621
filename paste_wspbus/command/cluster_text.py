"""What `status` and `ps` print of a cluster: the engine, the lease, a table of machines."""

from __future__ import annotations

from collections import Counter

from paste_wspbus.cluster.rolled import sentences
from paste_wspbus.command.answer import in_columns
from paste_wspbus.command.status_text import BAD, BUSY, HEADING, PLAIN, Line, age_text
from paste_wspbus.control.status import number, plural, text, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

COLUMNS = (
    *('MACHINE', 'STATE', 'RELEASE', 'VERSION', 'GEN', 'WORKERS', 'LEADS'),
    'LAST WORD',
)

#: The engine of one machine, as `cluster.settings` names it: there, a site is often the only one.
ALONE = 'this machine alone'

#: The keys of a roll that are texts.
_ROLL = 'state', 'who', 'turn', 'done', 'failed', 'rest', 'line'

#: The states of a roll.
_ROLL_STATES = 'rolls', 'died', 'ended'

#: The number of silent machines that get a sentence each, at most.
SHOWN = 5


def in_brief(cluster: Any) -> list[Line]:
    """Return the lines of a plain `status`: who this machine is, and who has the lease."""
    if not isinstance(cluster, dict):
        return []
    members = number(cluster, 'members')
    if cluster.get('engine') == ALONE and members in (1, None):
        return [*_lease(cluster), *_messages(cluster), *_roll(cluster, ('died',))]
    line = f'This is {text(cluster.get("machine"))} of the cluster {text(cluster.get("name"))}'
    if members is not None:
        line += f', which has {plural(int(members), "machine")}'
    died = _roll(cluster, ('died',))
    return [Line(f'{line}.'), *_lease(cluster), *_messages(cluster), *died]


def describe(cluster: Any) -> list[Line]:
    """Return what `status --cluster` prints."""
    if not isinstance(cluster, dict):
        why = 'it was started without workers, or without [cluster:main] in its .ini'
        return [Line(f'The site belongs to no cluster: {why}.')]
    machines = machines_of(cluster)
    who = f'seen from {text(cluster.get("machine"))}'
    line = f'The cluster {text(cluster.get("name"))}, {who}'
    if machines is not None:
        more = int(number(cluster, 'left_out') or 0)
        line += f': {plural(len(machines) + more, "machine")}'
        line += f', of which the first {len(machines)} are shown' * bool(more)
        silent = sum(one.get('is_silent') is True for one in machines)
        line += f', {silent} of them silent' * bool(silent)
    lines = [Line(f'{line}.'), *_engine(cluster), *_lease(cluster)]
    lines += _messages(cluster)
    if machines:
        lines += [Line(''), *table(machines)]
        if sentences := _silent(machines):
            lines += [Line(''), *sentences]
    roll = _roll(cluster, _ROLL_STATES)
    return [*lines, Line(''), *roll] if roll else lines


def _roll(cluster: dict[str, Any], states: Sequence[str]) -> list[Line]:
    """Return a line on the roll that goes on, or on the last one if it has not gone well.

    :param states: its states in which there is a line.
    """
    roll = cluster.get('roll')
    if not isinstance(roll, dict):
        return []
    words = {key: text(roll.get(key)) for key in _ROLL}
    if words['state'] not in states:
        return []
    more = {'age': number(roll, 'age') or 0.0, 'begun': roll.get('begun') is True}
    said = sentences({**words, **more})
    style = PLAIN if words['state'] == 'rolls' else BAD
    return [Line(said, style)] if said else []


def machines_of(cluster: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the machines as dictionaries; None if they are not known."""
    machines = cluster.get('machines')
    if not isinstance(machines, list):
        return None
    return [one for one in machines if isinstance(one, dict)]


def _engine(cluster: dict[str, Any]) -> list[Line]:
    name, last = text(cluster.get('engine')), number(cluster, 'last_word')
    if cluster.get('answers') is not True:
        since = '' if last is None else f' for {age_text(last)}'
        why = cluster.get('problem')
        why = text(why) if why else 'it has not answered yet'
        return [Line(f'There is no word from {name}{since}: {why}.', BAD)]
    took = number(cluster, 'round_trip')
    more = '' if took is None else f'; a round trip takes {took * 1000:.1f} ms'
    return [Line(f'The engine is {name}{more}.')]


def _lease(cluster: dict[str, Any]) -> list[Line]:
    """Return a line on the lease of the cluster plugins, as far as it is known who has it."""
    names, leader = texts(cluster, 'plugins'), cluster.get('leader')
    if not names and not leader:
        return []
    which = f' ({", ".join(names)})' if names else ''
    since = number(cluster, 'leads_for')
    when = '' if since is None else f', for {age_text(since)}'
    lease = f'the lease of the cluster plugins{which}'
    if cluster.get('holds') is True:
        fence = text(cluster.get('fence'))
        return [Line(f'This machine has {lease}{when}, with the fence {fence}.')]
    if leader:
        has = f'{text(leader)} has it{when}'
        style = PLAIN
    elif leader == '':
        has, style = 'nobody has it now', BUSY
    else:
        has, style = 'it is not known who has it', BUSY
    if (rests := number(cluster, 'rests')) is not None:
        why = 'crash again and again here. This machine wants their lease again in'
        line = f'The cluster plugins{which} {why} {rests:.0f} s; {has}.'
        return [Line(line, BAD)]
    if cluster.get('waits') is True:
        return [Line(f'This machine waits for {lease}: {has}.', style)]
    return [Line(f'{lease[0].upper()}{lease[1:]}: {has}.', style)]


def _messages(cluster: dict[str, Any]) -> list[Line]:
    """Return a line on messages that were lost, if there were some since the start."""
    counts = cluster.get('messages')
    if not isinstance(counts, dict):
        return []
    lost = (
        ('dropped', 'of this machine did not reach the others'),
        ('missed', 'of other machines may not have reached this one'),
    )
    found = ((number(counts, key) or 0, how) for key, how in lost)
    parts = [
        f'{plural(int(count), "message")} {how}' for count, how in found if count >= 1
    ]
    return [Line(f'{", ".join(parts)}: the log says why.', BUSY)] if parts else []


def table(machines: list[dict[str, Any]]) -> list[Line]:
    """Return a table of machines; it is as wide as its cells."""
    heading, *lines = in_columns([COLUMNS, *rows(machines)])
    styles = (BAD if one.get('is_silent') is True else PLAIN for one in machines)
    return [Line(heading, HEADING), *map(Line, lines, styles)]


def rows(machines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of each machine. What a silent machine does is not known."""
    names = Counter(text(one.get('machine')) for one in machines)
    return [_row(one, names[text(one.get('machine'))] > 1) for one in machines]


def _row(machine: dict[str, Any], is_namesake: bool) -> tuple[str, ...]:
    name = text(machine.get('id' if is_namesake else 'machine'))
    age = number(machine, 'age')
    last = '?' if age is None else f'{age:.1f} s ago' if age < 100 else _long_ago(age)
    if machine.get('is_silent') is True:
        return (name, 'silent', *['?'] * 5, last)
    state = text(machine.get('state')).lower()
    if machine.get('renewing') is True:
        state = 'reloading'
    elif machine.get('drained') is True:
        state += ', drained'
    serving, wanted = number(machine, 'serving'), number(machine, 'wanted')
    workers = (
        '?' if serving is None or wanted is None else f'{serving:.0f}/{wanted:.0f}'
    )
    leads = machine.get('leads')
    leads = ' '.join(texts(machine, 'leads')) or '-' if isinstance(leads, list) else '?'
    code = [text(machine.get(key) or '-') for key in ('release', 'version')]
    generation = text(machine.get('generation'))
    return name, state, *code, generation, workers, leads, last


def _long_ago(age: float) -> str:
    return f'{age_text(age)} ago'


def _silent(machines: list[dict[str, Any]]) -> list[Line]:
    """Return a line for each silent machine, for SHOWN of them at most."""
    silent = [one for one in machines if one.get('is_silent') is True]
    lines = []
    for one in silent[:SHOWN]:
        age, last = number(one, 'age'), text(one.get('release') or one.get('version'))
        since = 'for a while' if age is None else f'for {age_text(age)}'
        line = f'{text(one.get("machine"))} has not reported {since}: '
        line += 'its state is not known.'
        line += f' Its last report was that it runs {last}.' * (last != '?')
        lines.append(Line(line, BAD))
    if len(silent) > SHOWN:
        lines.append(
            Line(f'{len(silent) - SHOWN} more machines have not reported.', BAD)
        )
    return lines

"""The reports and the orders between a supervisor and its processes: a table for each."""

from __future__ import annotations

import os
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Word(NamedTuple):
    """One report or order: who sends it, who receives it, and what the receiver does.

    ``carries`` has, for a report, the keys of its message; the first one is its name. For
    an order, it has the values behind the name in the line, each as JSON.
    """

    name: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    effect: str
    carries: tuple[str, ...] = ()


class UnknownWord(LookupError):
    """A report or order with the name ``word`` is not in the table."""

    def __init__(self, word: str) -> None:
        super().__init__(f'{word!r} is not a word of paste_wspbus.wire')
        self.word = word


#: The senders and receivers: the command that waits for a daemon's start, and that daemon;
#: the supervisor; a process that runs the site; a process that forks others.
LAUNCHER, DAEMON = 'launcher', 'daemon'
SUPERVISOR, WORKER, FORKER = 'supervisor', 'worker', 'forker'
#: The process that shows browsers that the site is loading.
PAGE = 'page'
#: The process of the ops listener.
OPS = 'ops'
#: A site of one process, and the process that tries its new code.
OLD, TRIAL = 'old', 'trial'

#: The reports of a process to the launcher or supervisor: each is a line of JSON.
REPORTS = {
    word.name: word
    for word in (
        Word(
            'pid',
            (DAEMON, WORKER),
            (LAUNCHER, SUPERVISOR),
            'The receiver notes the process ID, and can send signals.',
            ('pid',),
        ),
        Word(
            'ready',
            (DAEMON, WORKER, FORKER),
            (LAUNCHER, SUPERVISOR),
            'The launcher prints the lines and exits with 0; the supervisor lets the '
            'process take its place.',
            ('ready',),
        ),
        Word(
            'failed',
            (DAEMON, WORKER, FORKER, TRIAL),
            (LAUNCHER, SUPERVISOR, OLD),
            'The launcher prints the line and exits with the code; the supervisor '
            'notes why the start failed, logs the traceback once for all that fail '
            'alike, and under --reload shows it; the old site logs the line and the '
            'traceback, and keeps serving.',
            ('failed', 'line', 'traceback', 'file', 'problem'),
        ),
        Word(
            'composed',
            (WORKER, TRIAL),
            (SUPERVISOR, OLD),
            'The supervisor answers with go, now or when it is time; the old site '
            'restarts in place.',
        ),
        Word(
            'untried',
            (TRIAL,),
            (OLD,),
            'The old site restarts in place, and logs why its code was not tried.',
        ),
        Word(
            'leave',
            (WORKER,),
            (SUPERVISOR,),
            'The site asks to stop: the supervisor stops all processes.',
        ),
        Word(
            'succeed',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor starts another process in the place of this one.',
        ),
        Word(
            'renew',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor restarts the site gracefully.',
        ),
        Word(
            'restarts',
            (WORKER,),
            (SUPERVISOR,),
            'The site has stopped, to be restarted: the supervisor starts it by fork '
            'or child, or waits until this process has replaced itself (execv).',
            ('restarts',),
        ),
        Word(
            'exits',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor notes the exit code, which it may not see otherwise.',
            ('exits',),
        ),
        Word(
            'status',
            (WORKER, OPS),
            (SUPERVISOR,),
            'The supervisor answers whoever asked for the status.',
            ('status',),
        ),
        Word(
            'timeline',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor keeps the calls of listeners, and answers whoever asked for '
            'them. A process also reports them at its end.',
            ('timeline', 'left_out', 'ends'),
        ),
        Word(
            'examined',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor logs a slow request only if the application computes.',
            ('examined', 'waits'),
        ),
        Word(
            'cut',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor adds the numbers to what it answers about a graceful restart.',
            ('cut', 'others'),
        ),
        Word(
            'hears',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the retained messages on these channels, then heard; '
            'and from then on all messages on them.',
            ('hears',),
        ),
        Word(
            'broadcast',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the message to all processes that hear the channel, '
            'and, if the cluster should have it, to the other machines.',
            ('broadcast', 'args', 'retain', 'cluster'),
        ),
        Word(
            'ask',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the question to all processes that hear the channel, '
            'and their answers to the process that asks.',
            ('ask', 'channel', 'args', 'timeout'),
        ),
        Word(
            'answer',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor passes the answer on to the process that asks.',
            ('answer', 'value', 'error'),
        ),
        Word(
            'learnt',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor watches these files, and has these modules preloaded.',
            ('learnt', 'modules'),
        ),
        Word(
            'loads',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor has browsers shown where the load of the site is.',
        ),
        Word(
            'outdated',
            (WORKER,),
            (SUPERVISOR,),
            'These files have changed, and the process accepts no more connections: the '
            'supervisor restarts the site, even if the files are as they were.',
            ('outdated',),
        ),
        Word(
            'health',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor notes the health checks of the process, for the ops listener.',
            ('health',),
        ),
        Word(
            'wants',
            (OPS,),
            (SUPERVISOR,),
            'The supervisor sends this kind of answer about the site: see tells.',
            ('wants',),
        ),
        Word(
            'forked',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor notes the process ID of what it ordered by fork.',
            ('forked', 'process'),
        ),
        Word(
            'ended',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor takes note of the end of a process that it ordered.',
            ('ended', 'code', 'dumped'),
        ),
        Word(
            'imported',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor has spare workers forked, or, if a module has spoiled '
            'the process, starts another one without that module.',
            ('imported', 'why'),
        ),
    )
}

#: The orders of a supervisor to its processes: each is a line of text.
ORDERS = {
    word.name: word
    for word in (
        Word(
            'go',
            (SUPERVISOR,),
            (WORKER,),
            'A process that waits composes the site, or starts what it has composed.',
        ),
        Word(
            'stop',
            (SUPERVISOR,),
            (WORKER, FORKER, OPS),
            'The site stops: the process empties the sockets, for nobody accepts '
            'after it, and leaves.',
        ),
        Word(
            'release',
            (SUPERVISOR,),
            (WORKER, FORKER),
            'The site stops, but somebody else has the sockets: the process leaves.',
        ),
        Word(
            'make_way',
            (SUPERVISOR,),
            (WORKER, FORKER, PAGE),
            'Another process takes the place of this one, which leaves.',
        ),
        Word(
            'show',
            (SUPERVISOR,),
            (PAGE,),
            'The process shows since when the site is loading (time.monotonic), and the '
            'line where the load is.',
            ('since', 'place'),
        ),
        Word(
            'state',
            (SUPERVISOR,),
            (OPS,),
            'The process notes the fields of an ops.snapshot.State.',
            ('state',),
        ),
        Word(
            'checked',
            (SUPERVISOR,),
            (OPS,),
            'The process notes the health checks of the site: ops.health.Checked of each.',
            ('processes',),
        ),
        Word(
            'tells',
            (SUPERVISOR,),
            (OPS,),
            'The process notes an answer of this kind about the site.',
            ('kind', 'value'),
        ),
        Word(
            'restart',
            (SUPERVISOR,),
            (WORKER,),
            'The process stops the site and publishes restart.',
        ),
        Word(
            'hurry',
            (SUPERVISOR,),
            (WORKER,),
            'The process skips every wait while it stops.',
        ),
        Word(
            'force',
            (SUPERVISOR,),
            (WORKER,),
            'The process leaves at once.',
        ),
        Word(
            'status',
            (SUPERVISOR,),
            (WORKER, OPS),
            'The process reports its status: so the supervisor learns that it works.',
        ),
        Word(
            'timeline',
            (SUPERVISOR,),
            (WORKER,),
            'The process reports its timeline.',
        ),
        Word(
            'examine',
            (SUPERVISOR,),
            (WORKER,),
            'The process reports what a request waits for.',
            ('number',),
        ),
        Word(
            'give_up',
            (SUPERVISOR,),
            (WORKER,),
            'The process ends this request for its client, which gets a 503 if nothing '
            'was sent.',
            ('number',),
        ),
        Word(
            'take',
            (SUPERVISOR,),
            (WORKER,),
            'The process serves a connection of another one, which was killed. Its '
            'descriptor comes along, and is that of the socket with this inode.',
            ('inode',),
        ),
        Word(
            'drain',
            (SUPERVISOR,),
            (WORKER,),
            'The process sets bus.drained, which health checks read.',
        ),
        Word(
            'undrain',
            (SUPERVISOR,),
            (WORKER,),
            'The process clears bus.drained.',
        ),
        Word(
            'message',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes a message: its channel, and its arguments as JSON.',
            ('message',),
        ),
        Word(
            'question',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes a message, and reports its answer. It gets the channel, '
            'the arguments as JSON, and the number of the question.',
            ('question',),
        ),
        Word(
            'answered',
            (SUPERVISOR,),
            (WORKER,),
            'An answer to a question of this process: its token, the number of all answers, '
            'the place of this one among them, and the answer; it is null if there is none.',
            ('answered',),
        ),
        Word(
            'heard',
            (SUPERVISOR,),
            (WORKER,),
            'All retained messages were sent: the process need not wait for more.',
        ),
        Word(
            'missed',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes how many messages were dropped, because it did not read.',
            ('missed',),
        ),
        Word(
            'stacks',
            (SUPERVISOR,),
            (WORKER,),
            'The process logs the stacks of all threads.',
        ),
        Word(
            'reopen_logs',
            (SUPERVISOR,),
            (FORKER,),
            'The process opens its log files anew: those that it forks inherit them.',
        ),
        Word(
            'fork',
            (SUPERVISOR,),
            (FORKER,),
            'The process forks one with this role. Two descriptors come along: the '
            'connection and the scoreboard of the new process.',
            ('token', 'role'),
        ),
        Word(
            'import',
            (SUPERVISOR,),
            (FORKER,),
            'The process imports these modules, for those that it forks.',
            ('names',),
        ),
    )
}

#: The orders by which messages of the site travel; '' is the rest of a line, whose
#: beginning another program has read.
MESSAGES = frozenset({'message', 'question', 'answered', 'heard', 'missed', ''})


def report_word(word: str) -> Word:
    """Return the entry of a report.

    :raises UnknownWord: if it is not in the table.
    """
    known = REPORTS.get(word)
    if known is None:
        raise UnknownWord(word)
    return known


class NoReport(ValueError):
    """A line is not a report of `REPORTS`; the message says why."""


#: What a status says of each request in flight.
REQUEST = ('method', 'path', 'age', 'thread', 'id')

#: The number of bytes that a report has at most: for a large site, the report of its files
#: has some 2 MB.
MAX_REPORT = 1 << 24


def read_report(line: bytes) -> dict[str, Any]:
    """Read a line from a process, which may have sent anything.

    :returns: the message; {} if this version does not know the report.
    :raises NoReport: if the line does not match `REPORTS` and `VALUES`.
    """
    import json

    try:
        message = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NoReport(f'no JSON: {type(error).__name__}') from None
    if not isinstance(message, dict):
        raise NoReport('no JSON object')
    word = REPORTS.get(next(iter(message), ''))
    if word is None:
        return {}
    keys = word.carries or (word.name,)
    for key in keys:
        if key not in message or not VALUES[key](message[key]):
            raise NoReport(f'{key!r} of {word.name!r} is missing or wrong')
    return {key: message[key] for key in keys}


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # Infinity and NaN are not JSON


def _is_number(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 31


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


#: The numbers in the status of a process; each may be None.
NUMBERS = ('in_flight', 'served', 'server_threads', 'busy', 'queued')


def _is_request(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {*REQUEST}:
        return False
    age = value['age']
    is_age = type(age) in (int, float) and abs(age) < 1e12
    may_be_none = all(
        value[key] is None or _is_text(value[key]) for key in ('thread', 'id')
    )
    return (
        _is_text(value['method']) and _is_text(value['path']) and is_age and may_be_none
    )


def _is_status(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get('requests'), list):
        return False
    if not all(map(_is_request, value['requests'])):
        return False
    numbers = (value.get(key) for key in NUMBERS)
    if not all(number is None or _is_count(number) for number in numbers):
        return False
    if not isinstance(value.get('debugger', ''), str):
        return False
    states = value.get('plugins', {})
    if not isinstance(states, dict) or not all(
        isinstance(state, dict) for state in states.values()
    ):
        return False
    calling = value.get('calling')
    if calling is None:
        return True
    if not isinstance(calling, list) or len(calling) != 3:
        return False
    channel, listener, since = calling
    is_time = isinstance(since, (int, float)) and abs(since) < 1e12
    return _is_text(channel) and _is_text(listener) and is_time


#: The fields of a call in a timeline: channel, name, start (time.monotonic), seconds,
#: outcome and thread. And the number of calls in a report at most.
CALL, MAX_CALLS = (str, str, float, float, str, str), 300


def is_call(value: object) -> bool:
    """Whether a value has the fields of `CALL`."""
    if not isinstance(value, list) or len(value) != len(CALL):
        return False
    for one, kind in zip(value, CALL, strict=True):
        if kind is str and not _is_text(one):
            return False
        if kind is float and (type(one) not in (int, float) or not abs(one) < 1e12):
            return False
    return True


def _are_calls(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) <= MAX_CALLS and all(map(is_call, value))
    )


#: The types of what the health check of a process says.
_CHECK = {
    **{'name': str, 'group': str, 'text': str, 'ok': (bool, type(None))},
    **dict.fromkeys(('every', 'timeout'), (int, float)),
    **dict.fromkeys(('at', 'took'), (int, float, type(None))),
}


def _is_check(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _CHECK.keys()
        and all(isinstance(value[key], _CHECK[key]) for key in _CHECK)  # type: ignore[arg-type]
        and len(value['name']) + len(value['group']) + len(value['text']) <= 1000
    )


def _are_news(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_news, value))


def _is_news(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    kind, path, more = value
    if kind == 'file':
        is_signature = isinstance(more, list) and all(
            isinstance(number, (int, float)) for number in more
        )
        return _is_path(path) and (more is None or is_signature)
    return kind in ('modules', 'glob') and _is_path(path) and _are_paths(more)


def _is_path(value: object) -> bool:
    try:
        return isinstance(value, str) and b'\0' not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _are_paths(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_path, value))


#: The number of characters that a message (as JSON), a channel and an error have at most;
#: and how many channels a process names at once. `bus.messages` has the same limits.
MAX_MESSAGE, MAX_CHANNEL, MAX_ERROR, MAX_CHANNELS = 1 << 16, 200, 1000, 1000


def _is_channel(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CHANNEL


def _are_channels(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CHANNELS
        and all(map(_is_channel, value))
    )


def _is_message(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_MESSAGE


def _is_timeout(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= 3600  # type: ignore[operator]


#: From each key of a report to the check of its value.
VALUES: dict[str, Callable[[Any], bool]] = {
    'pid': lambda value: _is_number(value) and value > 1,
    'ready': _are_texts,
    'failed': _is_number,
    'line': _is_text,
    'traceback': _is_text,
    'file': lambda value: value is None or _is_text(value),
    'problem': _is_text,
    'composed': lambda value: value is True,
    'untried': _is_text,
    'leave': lambda value: value is True,
    'succeed': lambda value: value is True,
    'renew': lambda value: value is True,
    'restarts': lambda value: value in ('execv', 'child', 'fork'),
    'exits': _is_number,
    'examined': _is_count,
    'waits': _is_text,
    'cut': _is_number,
    'others': _is_number,
    'status': _is_status,
    'timeline': _are_calls,
    'left_out': _is_count,
    'ends': lambda value: isinstance(value, bool),
    'hears': _are_channels,
    'broadcast': _is_channel,
    'args': _is_message,
    'retain': lambda value: isinstance(value, bool),
    'cluster': lambda value: isinstance(value, bool),
    'ask': _is_count,
    'channel': _is_channel,
    'timeout': _is_timeout,
    'answer': _is_count,
    'value': lambda value: value is None or _is_message(value),
    'error': lambda value: (
        value is None or (_is_text(value) and len(value) <= MAX_ERROR)
    ),
    'learnt': _are_news,
    'modules': _are_texts,
    'loads': _is_text,
    'wants': _is_text,
    'health': lambda value: (
        isinstance(value, list) and len(value) <= 200 and all(map(_is_check, value))
    ),
    'outdated': lambda value: _are_paths(value) and bool(value),
    'forked': _is_number,
    'process': lambda value: _is_number(value) and value > 1,
    'ended': _is_number,
    'code': lambda value: value is None or _is_number(value),
    'dumped': lambda value: isinstance(value, bool),
    'imported': _is_text,
    'why': _is_text,
}


def order(word: str, *carried: object) -> bytes:
    """Return the line of an order.

    :raises UnknownWord: if it is not in the table.
    :raises TypeError: if it carries another number of values.
    """
    known = ORDERS.get(word)
    if known is None:
        raise UnknownWord(word)
    if len(carried) != len(known.carries):
        raise TypeError(f'{word!r} carries {known.carries}, not {len(carried)} values')
    if not carried:
        return f'{word}\n'.encode()
    import json  # imported here: a plain start does not need it

    return f'{word} {" ".join(map(json.dumps, carried))}\n'.encode()


def read_order(line: bytes) -> tuple[str, list[Any]]:
    """Read a line.

    :returns: the name of the order and its values; ('', []) if it is not an order.
    """
    text = line.decode(errors='replace').strip()
    name, _, rest = text.partition(' ')
    known = ORDERS.get(name)
    if known is None:
        return '', []
    if not known.carries:
        return name, []
    import json

    texts = rest.split(' ', len(known.carries) - 1)
    try:
        carried = [json.loads(text) for text in texts]
    except (ValueError, RecursionError):
        return '', []
    return (name, carried) if len(carried) == len(known.carries) else ('', [])

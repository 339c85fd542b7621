"""What a report of a process says: what was logged before, the text, the name of its file."""

from __future__ import annotations

import json
import time
from collections import deque

from paste_wspbus.control.stacks import request_words, thread_lines
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.masking import masked_text
from paste_wspbus.ini.settings import section_of
from paste_wspbus.unix.report_files import problem_of
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.ini.config import Config

#: The number of reports that are kept.
KEPT = 20

#: The number of events and of errors that a report has at most, of characters of each, of
#: frames, and of requests in flight.
EVENTS, ERRORS, TEXT, FRAMES, REQUESTS = 50, 20, 500, 2000, 100

#: The number of characters of a line that are kept before secrets are masked: a secret
#: that was cut in two would not be found.
LINE = 5000

#: The ends of lines that are headings of stacks: the events omit the stacks.
HEADINGS = ' The innermost call first:', ' Stacks:'

#: The keys of sizes in bytes.
SIZES = 'rss', 'max_memory'


def check_folder(config: Config, folder: str | None) -> None:
    """Refuse a folder of reports to which this process cannot write.

    :param folder: the path; None if no reports are written.
    :raises ConfigError: if it cannot.
    """
    problem = '' if folder is None else problem_of(folder)
    if problem:
        raise ConfigError(
            config.file, problem, section=section_of(config.loader), key='reports'
        )


class Notes:
    """The last events and errors of a process, each with its time."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS)
        self._errors: deque[tuple[float, str]] = deque(maxlen=ERRORS)
        self._secrets: set[str] = set()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these texts from now on, also in what was noted before.

        :param secrets: see `ini.masking.secrets_of`.
        """
        self._secrets.update(secrets)

    def note(self, text: str) -> None:
        """Note an event."""
        self._events.append((time.time(), text))

    def note_line(self, text: str, level: int = 20) -> None:
        """Note the first line of what is logged."""
        line, more, _ = text.partition('\n')
        for heading in HEADINGS if more else ():
            line = line.removesuffix(heading)
        line = line[:LINE]
        self.note(line)
        if level >= 40:
            self._errors.append((time.time(), line))

    def describe(self) -> dict[str, Any]:
        """Return the ``events`` and ``errors`` of a report."""
        secrets = sorted(self._secrets, key=len, reverse=True)
        return {
            'events': [_event(*one, secrets) for one in list(self._events)],
            'errors': [_event(*one, secrets) for one in list(self._errors)],
        }


def _event(at: float, text: str, secrets: list[str]) -> dict[str, Any]:
    text = masked_text(printable(text), secrets)[:TEXT]
    return {'time': round(at, 3), 'text': text}


def name_of(report: dict[str, Any]) -> str:
    """Return the name of the file: the time, the kind, the process."""
    whole, fraction = divmod(report['time'], 1)
    moment = time.strftime('%Y%m%d-%H%M%S', time.gmtime(whole))
    name = report['name'].replace(' ', '-')
    at = f'{moment}-{fraction * 1e6:06.0f}'
    return f'{at}-{report["kind"]}-{name}-{report["pid"]}.txt'


# -- as text ------------------------------------------------------------------------------


def text_of(report: dict[str, Any]) -> str:
    """Return a report as text for people; its last line is the same as JSON."""
    ready_for = report['ready_for']
    served = '' if ready_for is None else f', ready for {ready_for:.0f} s'
    supervised = 'plan' in report
    generation = f', generation {report["generation"]}' if supervised else ''
    parts = [
        [
            f'{report["what"]}.',
            f'{_time(report["time"])}, {report["name"]}, process {report["pid"]}'
            f'{generation}{served}',
        ],
        _part('How it ended', _end_lines(report.get('end'))),
        _part('Requests in flight', map(request_words, report['requests'])),
        _part('Stacks', thread_lines(report['threads'])),
        _part('Versions', _pairs(report.get('versions', {}))),
        _part('The plan of the supervisor', _pairs(report.get('plan', {}))),
    ]
    for section, values in report.get('settings', {}).items():
        title = f'[{section}] of {report.get("ini")}, secrets are masked'
        parts.append(_part(title, _pairs(values)))
    for key, title in (('events', 'The last events'), ('errors', 'The last errors')):
        events = (f'{_time(one["time"])} {one["text"]}' for one in report[key])
        parts.append(_part(title + ' of the supervisor' * supervised, events))
    texts = ['\n'.join(part) for part in parts if part]
    return '\n\n'.join([*texts, f'As JSON\n{json.dumps(report)}\n'])


def _part(title: str, lines: Iterable[str]) -> list[str]:
    lines = [f'  {printable(line)}' for line in lines]
    return [title, *lines] if lines else []


def _pairs(values: dict[str, Any]) -> Iterable[str]:
    return (
        f'{key} = {" ".join(_value(key, value).split())}'
        for key, value in values.items()
        if value is not None
    )


def _value(key: str, value: object) -> str:
    """Return a value for people; the line of JSON has it as it is."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if key in SIZES and isinstance(value, int):
        return f'{value / (1 << 20):.1f} MB' if value else '0'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _end_lines(end: dict[str, Any] | None) -> list[str]:
    """Return what is known of an end; the requests are shown elsewhere."""
    known = {key: value for key, value in (end or {}).items() if value is not None}
    shown_above = {'time', 'pid', 'requests'}
    return list(_pairs({key: known[key] for key in known if key not in shown_above}))


def _time(at: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(at))

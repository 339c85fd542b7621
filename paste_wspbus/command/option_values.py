"""The values of options, and the messages for wrong ones."""

from __future__ import annotations

import re

from paste_wspbus.errors import UsageError
from paste_wspbus.ini.settings import MAX_WORKERS, worker_count
from paste_wspbus.values import closest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def interval(text: str) -> float:
    """Read the value of --reload-interval."""
    return _seconds('--reload-interval', text, 0.0, float('inf'))


def watch_interval(text: str) -> float:
    """Read the value of --interval."""
    return _seconds('--interval', text, 0.1, 3600.0)


def _seconds(option: str, text: str, least: float, most: float) -> float:
    """Read a number of seconds: at least ``least``, above 0, at most ``most``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0 < seconds < float('inf') and least <= seconds <= most:
        return seconds
    allowed = f'from {least:g} to {most:g}' if least else 'above 0'
    raise UsageError(f'{option} {text}: it must be a number of seconds {allowed}')


def workers(text: str) -> int:
    """Read the value of --workers."""
    try:
        return worker_count(text)
    except ValueError:
        raise UsageError(
            f'--workers {text}: it must be a number from 0 to {MAX_WORKERS}, or auto'
        ) from None


#: From each option here to the names that other servers have for it.
ELSEWHERE = {
    '--listen HOST:PORT': (
        'host',
        'port',
        'p',
        'bind',
        'http',
        'http-socket',
        'address',
    ),
    '--workers N': ('w', 'processes'),
    '--daemon': ('D', 'd', 'background', 'daemonize'),
    'threads = N in [server:main]': ('threads',),
}


def explained(message: str, parser: argparse.ArgumentParser) -> str:
    """Return argparse's message in other words, with a hint what may be meant."""
    unknown = re.match(r'unrecognized arguments: (\S+)', message)
    if not unknown:
        return message
    option = unknown[1].partition('=')[0]
    return f'unknown option {option}{near(option, parser)}'


def near(option: str, parser: argparse.ArgumentParser) -> str:
    """Return a hint for the end of a message: the option that is meant, or ''."""
    for ours, theirs in ELSEWHERE.items():
        if option.lstrip('-') in theirs:
            return f'; write {ours}'
    known = {one.lstrip('-'): one for one in parser._option_string_actions}
    name = closest(option.lstrip('-'), known)
    return f'; did you mean {known[name]!r}?' if name is not None else ''

"""How the command reads the status of a site, which may come from another version."""

from __future__ import annotations

from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: All times, ages and process IDs are smaller than this.
MAX_NUMBER = 1e15


def followed(text: str, more: str) -> str:
    """Return a message of another place with more after it: a sentence of its own after '?'.

    :param more: a sentence without a capital and a full stop.
    """
    if text.endswith(('.', '?', '!')):
        return f'{text} {more[:1].upper()}{more[1:]}'
    return f'{text}; {more}'


def number(status: dict[str, Any], key: str) -> float | None:
    """Return a value of the status, if it is a number that can be a time; else None."""
    value = status.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if abs(value) < MAX_NUMBER else None


def process_of(status: dict[str, Any]) -> int | None:
    """Return the process ID of the status, if it is a possible one; else None."""
    pid = status.get('pid')
    return pid if type(pid) is int and 0 < pid < 1 << 31 else None


def texts(status: dict[str, Any], key: str) -> list[str]:
    """Return a value of the status, if it is a list, as texts; else an empty list."""
    value = status.get(key)
    return list(map(text, value)) if isinstance(value, list) else []


def text(value: object) -> str:
    """Return a value of the status as a text on one line."""
    if not isinstance(value, (str, int, float)):
        return '?'
    try:
        return printable(str(value))
    except ValueError:  # it is a number with thousands of digits
        return '?'


def workers_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the status of each worker, as dictionaries; [] if the site has none."""
    workers = status.get('workers')
    if not isinstance(workers, list):
        return []
    return [worker for worker in workers if isinstance(worker, dict)]


def requests_of(status: dict[str, Any]) -> list[Any]:
    """Return the requests of a status, which `request_text` can show; [] if it has none."""
    requests = status.get('requests')
    return requests if isinstance(requests, list) else []


def in_flight(status: dict[str, Any]) -> int:
    """Return the number of requests in flight, of which a status may list only some."""
    count, listed = number(status, 'in_flight'), len(requests_of(status))
    return listed if count is None else max(int(count), listed)


def request_text(request: Any) -> str:
    """Return a request in flight as a text, such as "'GET' '/report' 3.2 s"."""
    if not isinstance(request, dict):
        return text(request)  # earlier versions have the text
    method, path = text(request.get('method')), text(request.get('path'))
    age = number(request, 'age')
    return f"'{method}' '{path}' {'?' if age is None else f'{age:.1f}'} s"


def _listener_text(calling: Any) -> str:
    """Return the listener that runs as a text."""
    if not isinstance(calling, dict):
        return text(calling)  # earlier versions have the text
    age = number(calling, 'age')
    who = f"'{text(calling.get('channel'))}' listener {text(calling.get('listener'))}"
    return who if age is None else f'{who}, {age:.1f} s'


def what_it_waits_for(status: dict[str, Any]) -> str:
    """Return what a site waits for: requests in flight, the listener that runs, threads."""
    if not status:
        return 'it does not answer'
    parts = []
    requests, count = requests_of(status), in_flight(status)
    if requests:
        named = ', '.join(map(request_text, requests[:3]))
        more = ', …' * (len(requests) > 3)
        parts.append(f'{plural(count, "request")} in flight ({named}{more})')
    if status.get('calling'):
        parts.append(f'the {_listener_text(status["calling"])}')
    parts += [f'the thread {name}' for name in texts(status, 'threads')]
    workers = status.get('workers')
    for worker in workers if isinstance(workers, list) else ():
        if isinstance(worker, dict) and worker.get('requests', 0) is None:
            parts.append(f'{text(worker.get("name"))}, which does not answer')
    if parts:
        return f'waiting for {" and ".join(parts)}'
    return text(status.get('state', 'in an unknown state')).lower()


def plural(count: int, noun: str) -> str:
    """Return a number and its noun, such as '1 worker' and '2 workers'."""
    return f'{count} {noun}{"s" * (count != 1)}'

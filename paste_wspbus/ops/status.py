"""What the ops listener shows of a status: paths are cut, and lists are short."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The number of requests that are listed of the whole site, and of one process.
MAX_REQUESTS, MAX_OF_PROCESS = 100, 20


def cut_path(path: str) -> str:
    """Return a path up to its second segment: what follows may be a name or a secret."""
    first, *rest = path.removeprefix('/').split('/')
    if not rest:
        return path
    more = '/…' if len(rest) > 1 and rest[1:] != [''] else ''
    return f'/{first}/{rest[0]}{more}'


def public(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status as the ops listener shows it.

    :param status: as `wspserve site.ini status --json` prints it.
    """
    shown = {**status, 'requests': _requests(status.get('requests'), MAX_REQUESTS)}
    shown['workers'] = [
        {**worker, 'requests': _requests(worker.get('requests'), MAX_OF_PROCESS)}
        for worker in status.get('workers') or ()
    ]
    return shown


def _requests(requests: Any, most: int) -> Any:
    if not isinstance(requests, list):
        return requests
    return [{**one, 'path': cut_path(one['path'])} for one in requests[:most]]

"""What the ops listener shows of a status: paths are cut, secrets are masked, lists are short."""

from __future__ import annotations

from paste_wspbus.ini.masking import masked_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The number of requests that are listed of the whole site, and of one process; and of
#: health checks.
MAX_REQUESTS, MAX_OF_PROCESS, MAX_CHECKS = 100, 20, 1000


#: The number of processes above which no requests of single ones are listed.
MANY = 50


def cut_path(path: str) -> str:
    """Return a path up to its first segment: what follows may be a name or a secret."""
    end = path.find('/', 1) + 1
    return path if end in (0, len(path)) else f'{path[:end]}…'


def limited(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status with short lists, so that its size has a limit."""
    workers = status.get('workers') or []
    most = MAX_OF_PROCESS if len(workers) <= MANY else 0
    workers = [
        {**worker, 'requests': _first(worker.get('requests'), most)}
        for worker in workers
    ]
    return {
        **status,
        'requests': _first(status.get('requests'), MAX_REQUESTS),
        'health': _first(status.get('health'), MAX_CHECKS),
        'workers': workers,
    }


def _first(values: Any, most: int) -> Any:
    return values[:most] if isinstance(values, list) else values


def public(value: Any, secrets: list[str]) -> Any:
    """Return an answer of the site as it may be shown.

    :param secrets: what no text may show: see `ini.masking.secrets_of`.
    """
    if isinstance(value, dict):
        shown = {key: public(one, secrets) for key, one in value.items()}
        if 'method' in value and isinstance(value.get('path'), str):  # a request
            shown['path'] = cut_path(value['path'])
        return shown
    if isinstance(value, list):
        return [public(one, secrets) for one in value]
    return masked_text(value, secrets) if isinstance(value, str) else value

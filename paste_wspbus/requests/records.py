"""The id of the request in log records: ``%(request_id)s`` in a format."""

from __future__ import annotations

import logging

from paste_wspbus.requests.ids import request_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The id of a record that no request has caused.
NONE = '-'


class _Factory:
    """Makes log records that have ``request_id``."""

    def __init__(self, before: Callable[..., logging.LogRecord]) -> None:
        self._before = before

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._before(*args, **kwargs)
        record.request_id = request_id.get() or NONE
        return record


def add_request_ids() -> None:
    """Give each log record from now on ``request_id``; a second call does nothing."""
    before = logging.getLogRecordFactory()
    if not isinstance(before, _Factory):
        logging.setLogRecordFactory(_Factory(before))

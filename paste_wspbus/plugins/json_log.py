"""Log records as JSON, one object a line: ``log_format = json``. It needs python-json-logger."""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
import time

from pythonjsonlogger.json import JsonFormatter as BaseFormatter

from paste_wspbus.plugins import sitelog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: The attributes that each record has; all others come from the site.
_NAMES = frozenset([*logging.makeLogRecord({}).__dict__, 'message', 'asctime'])

#: Each field of a record, and that of the object.
_FIELDS = {
    'levelname': 'level',
    'name': 'logger',
    'processName': 'process',
    'process': 'pid',
    'threadName': 'thread',
}

#: NaN and the infinities are not JSON: most readers would refuse the line.
_in_json = functools.partial(json.dumps, allow_nan=False)

_LISTENER = re.compile(r"(?:Error in )?'(\w+)' listener (\S+)")


def begin(log: sitelog.SiteLog) -> None:
    """Give the records of a bus their fields, and make records of what Python would print.

    These are the warnings, and the errors that end a thread.
    """
    log.extra = fields_of_call
    logging.captureWarnings(True)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_end_of_thread


def _log_end_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return  # as Python's own handler does
    name = args.thread.name if args.thread is not None else 'unknown'
    error = args.exc_value or args.exc_type()
    logging.getLogger('threading').error(
        'An error has ended the thread %s', name, exc_info=error
    )


class JsonFormatter(BaseFormatter):  # type: ignore[misc]
    """Makes one JSON object of a record; control characters and other letters are escaped.

    The arguments are those of `logging.Formatter`. ``fmt`` and ``datefmt`` have no meaning:
    each object has all fields.
    """

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: str = '%',
        **more: Any,
    ) -> None:
        super().__init__('%(message)s', json_default=repr, json_serializer=_in_json)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record: also of one whose text or fields cannot be made."""
        try:
            return str(super().format(record))
        except Exception:  # a %-argument, repr(), a key or a number that is not in JSON
            return str(super().format(_repaired(record)))

    def add_fields(
        self, log_data: Any, record: logging.LogRecord, message_dict: Any
    ) -> None:
        """Put the fields of a record into an object, those of each record first."""
        second = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))
        log_data['time'] = f'{second}.{int(record.created % 1 * 1000):03}Z'
        for name, field in _FIELDS.items():
            log_data[field] = getattr(record, name, None)
        log_data.update(sitelog.fields_of_process)
        message, trace = record.message, ''
        if record.name.partition('.')[0] == 'paste_wspbus':
            message, trace = sitelog.divided(message)
        log_data['message'] = message
        more: dict[str, Any] = {}
        super().add_fields(more, record, message_dict)
        more.pop('message', None)
        trace = more.pop('exc_info', None) or trace
        if more.get('request_id') in ('-', ''):
            del more['request_id']
        log_data.update(
            {key: value for key, value in more.items() if key not in log_data}
        )
        if trace:
            log_data['traceback'] = trace.strip('\n')


def _repaired(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy whose text can be made, with texts for fields that are not in JSON."""
    values = {
        key: value if key in _NAMES else _usable(value)
        for key, value in record.__dict__.items()
    }
    try:
        text = record.getMessage()
    except Exception as error:
        arguments = f' with the arguments {_shown(record.args)}' if record.args else ''
        text = f'{_shown(record.msg)}{arguments} has no text: {type(error).__name__}'
    return logging.makeLogRecord({**values, 'msg': text, 'args': ()})


def _usable(value: object) -> object:
    try:
        _in_json(value, default=repr)
    except Exception:
        return _shown(value)
    return value


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f'<{type(value).__name__}>'


def one_object(text: str, level: int) -> str:
    """Return what the command prints as an object, like a record of this package."""
    record = logging.LogRecord('paste_wspbus', level, __file__, 0, text, (), None)
    made = logging.getLogRecordFactory()
    name = made('', level, '', 0, '', (), None).processName
    record.processName = name
    return str(JsonFormatter().format(record))


def fields_of_call(bus: Bus, message: str) -> dict[str, Any]:
    """Return the channel, the listener and the seconds that a message of the bus is about."""
    found = _LISTENER.match(message)
    if found:
        channel, name = found[1], found[2].rstrip(',:;')
        for call in reversed(bus.timeline[-20:]):
            if (call.channel, call.name) == (channel, name):
                seconds = round(call.duration, 6)
                return {'channel': channel, 'listener': name, 'duration': seconds}
        return {'channel': channel, 'listener': name}
    calling = bus.calling
    if calling is None:
        return {}
    channel, name, since = calling
    seconds = round(time.monotonic() - since, 6)
    return {'channel': channel, 'listener': name, 'duration': seconds}

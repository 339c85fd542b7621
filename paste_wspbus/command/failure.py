"""The traceback of a start that has failed: who gets it, and where it is shown."""

from __future__ import annotations

import logging
import traceback

from paste_wspbus.command import terminal
from paste_wspbus.command.terminal import print_line
from paste_wspbus.errorpage.problem import MOST, cut, trace_of
from paste_wspbus.plugins.sitelog import SafeFormatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.process.launch import Launch

#: The end of the line of an error that has a traceback.
V_SHOWS = ' (-v shows the traceback)'


def show_traceback(error: WSPBusError, launch: Launch) -> str:
    """Log the traceback of an error, and print it with -v or if the output is a log.

    A log always gets it: the failure of a daemon cannot be repeated to see it. It has the
    frames of the site; those of wspserve and PasteDeploy are shown only with -v. A worker
    shows nothing: its supervisor gets the traceback, because the others may fail alike.

    :returns: the end of the error's line, which says where the traceback is; or ''.
    """
    is_verbose = launch.options.verbosity > 1
    is_raised = error.__cause__ is not None
    trace = error.trace or (trace_of(error)[0].rstrip('\n') if is_raised else '')
    text = (error.trace or _whole(error)) if is_verbose else trace
    if launch.is_supervised:
        return _leave_to_supervisor(error, launch, text or trace)
    if trace and launch.later and _is_logging():
        logging.getLogger('paste_wspbus').error('The start has failed:\n%s', trace)
        return ''
    log = _log(trace, text, launch)
    if not launch.log and (is_verbose or (trace and launch.later)):
        print_line(text, 'stderr', level=40)
    if log and (trace or error.is_logged):
        return f' (the traceback is in {log})'
    if is_verbose or launch.later:
        return ''
    return V_SHOWS if is_raised or trace else ''


def _leave_to_supervisor(error: WSPBusError, launch: Launch, text: str) -> str:
    error.trace = cut(text, MOST)
    is_unknown = error.__cause__ is not None and not (error.trace or launch.later)
    return V_SHOWS if is_unknown else ''


def _log(trace: str, text: str, launch: Launch) -> str | None:
    """Write the traceback to the log file, and return its path; None if there is none."""
    if launch.log:
        if text:
            print_to_log(f'The start has failed:\n{text}')
        return launch.log
    if not trace:
        return None
    from paste_wspbus.plugins.log_files import log_to_files

    return log_to_files(f'The start has failed:\n{trace}')


def print_to_log(text: str) -> None:
    """Print an error to the log file that stderr is, in the format of its other lines."""
    if terminal.as_json is None:
        fields = {'name': 'paste_wspbus', 'levelname': 'ERROR', 'levelno': 40}
        record = logging.makeLogRecord({**fields, 'msg': '%s', 'args': (text,)})
        form = '%(asctime)s %(levelname)-5.5s [%(name)s] %(message)s'
        text = SafeFormatter(form).format(record)
    print_line(text, 'stderr', level=40)


def _whole(error: WSPBusError) -> str:
    lines = traceback.format_exception(error.__cause__ or error)
    return ''.join(lines).rstrip('\n')


def _is_logging() -> bool:
    return logging.getLogger('paste_wspbus').hasHandlers()

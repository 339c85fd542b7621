"""Every exit code of the command, with its meaning."""

from __future__ import annotations

#: The site has started and stopped without failures; or the command has succeeded.
DONE = 0

#: The site did not start, or it has stopped with failures.
FAILED = 1

#: The command line or the configuration is wrong.
USAGE = 2

#: `stop`: the process does not end, not even after SIGKILL.
DOES_NOT_DIE = 3

#: `stop`: the process belongs to another user (LSB: insufficient privileges).
NOT_PERMITTED = 4

#: The site has not stopped before its deadline, and was ended by force (sysexits.h).
EX_SOFTWARE = 70

#: Ctrl-C came before the site could handle it: 128 + SIGINT, as shells report it.
INTERRUPTED = 130

#: SIGTERM came before the site could handle it: 128 + SIGTERM. If the terminal ended, it
#: is 129 (SIGHUP).
TERMINATED = 143

#: `status`, by the Linux Standard Base: the site runs; its process has ended, and the
#: PID file still exists; the site does not run; it is unknown whether the site runs.
IS_RUNNING, IS_DEAD, IS_NOT_RUNNING, IS_UNKNOWN = 0, 1, 3, 4


def exit_code_of(error: SystemExit) -> int:
    """Return the exit code of a process that ``error`` ends.

    `sys.exit` documents the rule: 0 for None, 1 for anything but a number.
    """
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def of_signal(number: int) -> int:
    """Return the code that a shell reports for a process that a signal has ended."""
    return 128 + number

"""Times of a cron line in a time zone, and how texts of an .ini become both."""

from __future__ import annotations

import os
from datetime import datetime, tzinfo

from paste_wspbus.errors import SettingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The link, or copy, of the machine's time zone (localtime(5)).
LOCALTIME = '/etc/localtime'


class Schedule:
    """The times of a cron line.

    Times are seconds since the epoch, whole ones. What the line means, also when clocks
    are put forward or back, is what `cronsim.CronSim` says: that is Debian's cron.

    :param line: five fields, or six with the seconds in front; it was checked already.
    """

    def __init__(self, line: str, zone: tzinfo) -> None:
        self.line, self.zone = line, zone

    def after(self, moment: float) -> Iterator[int]:
        """Yield the times after a moment, in order and without an end.

        It ends if no time comes within 50 years.
        """
        from cronsim import CronSim

        last = moment
        for one in CronSim(self.line, datetime.fromtimestamp(moment, self.zone)):
            time = int(one.timestamp())
            # A moment in the second of two equal hours has the clock of the first.
            if time > last:
                yield time
                last = time

    def next(self, moment: float) -> int | None:
        """Return the first time after a moment; None if none comes within 50 years."""
        return next(self.after(moment), None)

    def before(self, moment: float) -> int:
        """Return the last time before a moment; that moment if there is none in 50 years."""
        from cronsim import CronSim

        local = datetime.fromtimestamp(moment, self.zone)
        one = next(CronSim(self.line, local, reverse=True), local)
        return int(one.timestamp())

    def text(self, moment: float) -> str:
        """Return a moment as a clock in the time zone shows it: '2026-03-29 03:15 CEST'."""
        local = datetime.fromtimestamp(moment, self.zone)
        seconds = ':%S' if local.second else ''
        return local.strftime(f'%Y-%m-%d %H:%M{seconds} %Z')


#: The names that crontab(5) has for lines; but not @reboot, which is no time.
NAMES = {
    '@hourly': '0 * * * *',
    '@daily': '0 0 * * *',
    '@midnight': '0 0 * * *',
    '@weekly': '0 0 * * 0',
    '@monthly': '0 0 1 * *',
    '@yearly': '0 0 1 1 *',
    '@annually': '0 0 1 1 *',
}


def cron_line(text: str) -> str:
    """Check a cron line, or one of its `NAMES`.

    :returns: the line, with one space between its fields.
    :raises SettingError: if it is wrong, if its time never comes, or if cronsim, which
        reads it, is not installed.
    """
    try:
        from cronsim import CronSim, CronSimError
    except ModuleNotFoundError:
        raise missing('cronsim', 'cron') from None
    line = ' '.join(text.split())
    line = NAMES.get(line.lower(), line)
    # A fixed moment, so that each run of this check has the same result. (The year is a
    # leap year that begins on a Saturday.)
    begin = datetime(2000, 1, 1)
    try:
        if next(CronSim(line, begin), None) is not None:
            return line
    except CronSimError as error:
        problem = str(error).lower()
        if problem != 'bad day-of-month' or not _comes_in_another_month(line):
            takes = 'minute hour day-of-month month day-of-week, as "15 3 * * *"'
            problem = f'{line!r} is no cron line ({problem}): write {takes}'
            raise SettingError(None, problem) from None
    raise SettingError(None, f'{line!r} never comes: no such month has such a day')


def _comes_in_another_month(line: str) -> bool:
    """Whether the line has times with any month in the place of its own: '0 0 30 2 *'."""
    from cronsim import CronSim, CronSimError

    fields = line.split()
    fields[-2:-1] = ['*']
    try:
        return next(CronSim(' '.join(fields), datetime(2000, 1, 1)), None) is not None
    except CronSimError:
        return False


def zone(text: str) -> tzinfo:
    """Return a time zone by its name, as 'Europe/Berlin'; 'local' is that of the machine.

    :raises SettingError: if there is none of that name here.
    """
    from zoneinfo import ZoneInfo, available_timezones

    from paste_wspbus.values import nearest

    name = text.strip()
    if name.lower() == 'local':
        return local_zone()
    try:
        return ZoneInfo(name)
    # IsADirectoryError: 'Europe'. ValueError: '../x', or a file that is no zone.
    except (KeyError, OSError, ValueError):
        known = available_timezones()
    if not known:
        problem = "this machine has no time zones: pip install 'paste_wspbus[cron]'"
        raise SettingError(None, problem)
    hint = nearest(name, known)
    raise SettingError(None, f'there is no time zone {name!r}{hint}')


def local_zone() -> tzinfo:
    """Return the time zone of the machine: that of $TZ, else that of /etc/localtime, or UTC."""
    from zoneinfo import ZoneInfo

    name = os.environ.get('TZ', '').removeprefix(':')
    path = os.path.realpath(name if os.path.isabs(name) else LOCALTIME)
    try:
        if name and not os.path.isabs(name):
            return ZoneInfo(name)
        with open(path, 'rb') as file:
            return ZoneInfo.from_file(file, path.partition('/zoneinfo/')[2] or 'local')
    except (KeyError, OSError, ValueError):
        from datetime import UTC

        return UTC


def missing(library: str, extra: str) -> SettingError:
    """Return the error of a key that needs a library that is not installed."""
    return SettingError(
        None,
        f"it needs {library}, which is not installed: pip install 'paste_wspbus[{extra}]'",
    )

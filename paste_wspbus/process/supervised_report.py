"""The reports of a process that has a supervisor, which listens as long as the process runs."""

from __future__ import annotations

from paste_wspbus.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SupervisedReport(Report):
    """A `Report` that also says what the process does after its start.

    :param fd: a descriptor of the connection to the supervisor.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, lasting=True)

    def status(self, status: dict[str, Any]) -> None:
        """Report the status of this process."""
        self._say('status', status)

    def timeline(self, calls: list[Any], left_out: int, ends: bool) -> None:
        """Report the calls of this process: see `control.timeline.describe_calls`.

        :param ends: whether the process is about to end.
        """
        self._say('timeline', calls, left_out, ends)

    def examined(self, number: int, waits: str) -> None:
        """Report what a request waits for: see `requests.examining`."""
        self._say('examined', number, waits)

    def forked(self, token: int, pid: int) -> None:
        """Report the ID of the process that was forked for an order."""
        self._say('forked', token, pid)

    def ended(self, token: int, code: int | None, dumped: bool = False) -> None:
        """Report that the process that was forked for an order has ended.

        :param code: the number of os.waitstatus_to_exitcode; None if it is not known.
        :param dumped: whether it has dumped core.
        """
        self._say('ended', token, code, dumped)

    def learnt(self, news: list[Any], modules: list[str]) -> None:
        """Report the files and modules of the site.

        :param news: the result of `watching.files.Files.news`.
        :param modules: the modules of installed packages.
        """
        self._say('learnt', news, modules)

    def imported(self, name: str = '', why: str = '') -> None:
        """Report that modules were imported; or which one makes a fork unsafe, and why."""
        self._say('imported', name, why)

    def loads(self, place: str) -> None:
        """Report the line where the load of the site is.

        A signal handler calls this: it reports nothing in the middle of another report.
        """
        if not self._sending._is_owned():  # type: ignore[attr-defined]
            self._say('loads', place)

    def health(self, checks: list[dict[str, Any]]) -> None:
        """Report the health checks of this process: see `bus.health.Check.describe`."""
        self._say('health', checks)

    def wants(self, kind: str) -> None:
        """Report that the ops listener wants this kind of answer about the site."""
        self._say('wants', kind)

    def outdated(self, paths: list[str]) -> None:
        """Report that these files of the site have changed: it must be restarted."""
        self._say('outdated', paths)

    def leave(self) -> None:
        """Report that the site asks for a stop."""
        self._say('leave', True)

    def succeed(self) -> None:
        """Report that this process asks for a successor."""
        self._say('succeed', True)

    def renew(self) -> None:
        """Report that the site asks for a graceful restart of all processes."""
        self._say('renew', True)

    def restarts(self, style: str) -> None:
        """Report that the site has stopped for a restart.

        :param style: 'child' or 'fork'; or 'execv' if this process replaces itself.
        """
        self._say('restarts', style)

    def cut(self, streams: int, others: int) -> None:
        """Report how many streams and other requests the stop of this process has cut."""
        self._say('cut', streams, others)

    def hears(self, channels: list[str]) -> None:
        """Report that messages on these channels are published here from now on."""
        self._say('hears', channels)

    def broadcast(self, channel: str, args: str, retain: bool, cluster: bool) -> None:
        """Report a message for all processes.

        :param args: its arguments, as JSON.
        :param retain: whether a process that starts later gets it, too.
        :param cluster: whether the other machines get it, too.
        """
        self._say('broadcast', channel, args, retain, cluster)

    def ask(self, token: int, channel: str, args: str, timeout: float) -> None:
        """Report a question for all processes, whose answers have this token."""
        self._say('ask', token, channel, args, timeout)

    def answer(self, token: int, value: str | None, error: str | None) -> None:
        """Report the answer to a question: a value as JSON, or the reason why there is none."""
        self._say('answer', token, value, error)

    def exits(self, code: int) -> None:
        """Report the exit code of this process, which is about to end."""
        self._say('exits', code)

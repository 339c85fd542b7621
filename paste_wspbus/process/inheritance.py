"""The inheritance that a process hands to its successor: its sockets and its PID lock."""

from __future__ import annotations

import contextlib
import os
import socket

from paste_wspbus.listening.sockets import ListeningSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

    from paste_wspbus.control.register import Registration
    from paste_wspbus.unix.pid_lock import PIDLock

#: The environment variable that carries the inheritance over execv(2), with the ID of the
#: process that may use it.
VARIABLE = 'WSPSERVE_INHERITANCE'

#: The environment variable of a process that only tries whether the site can be loaded:
#: JSON with the ``fd`` for its report, its ``parent``, the ``log_file`` of the site, its
#: ``user`` and ``group`` if it changes to them, the seconds that the load may take (``limit``),
#: and the time.monotonic() since which they count (``began``).
TRIAL = 'WSPSERVE_TRIAL'


class Inheritance:
    """What a process hands to its successor: open descriptors, and what they are.

    ``sockets`` are descriptors of listening sockets. ``origins`` has, for each of them,
    the labels of a passed socket, and the file of a Unix socket (see `ListeningSocket`).
    ``where`` has the settings for which they were bound. ``pid_file`` and ``control`` are
    the descriptors of the locked file and of the control socket. ``owned`` says whether
    the sockets belong to this site alone (see `ListeningSocket`). ``daemon`` says whether
    the process is a daemon already.

    The following are used only over execv. ``report`` is the descriptor for reports, if a
    process still waits for the start. ``worker`` is for a process that has a supervisor:
    the descriptor of its connection, the fields of its role, and the descriptor of its
    scoreboard (-1 stands for none). ``problem`` is the
    traceback to show in the place of the site, and {path: signature} of the files that
    must change before it can be right. ``reload`` says since which
    time.monotonic() the reload runs, and whether the program before could serve, before
    a change made it outdated. ``renewal`` has the fields of a `Renewal`. ``entry`` is the
    descriptor of the site's entry
    (see `Registration`). ``files`` are its PID file and its log file (see `Launch`).
    ``drained`` is `Bus.drained`. ``ops`` has, for each socket of the ops listener, its
    descriptor and its file (see `ListeningSocket`).

    ``came_over_execv`` says whether the program before this one has left it in the
    environment. ``came_from_another`` says whether another process has sent it. Then only its
    descriptors count, and each is checked before it is used: an attacker may control that
    process, and this one may be root.
    """

    def __init__(
        self,
        where: dict[str, str] | None = None,
        sockets: list[int] | None = None,
        pid_file: int | None = None,
        control: int | None = None,
        owned: bool = True,
        daemon: bool = False,
        report: int | None = None,
        worker: tuple[int, list[Any], int] | None = None,
        problem: tuple[str, dict[str, Any]] | None = None,
        reload: tuple[float, bool] | None = None,
        origins: list[Any] | None = None,
        entry: int | None = None,
        files: list[str] | None = None,
        renewal: list[Any] | None = None,
        drained: bool = False,
        ops: list[list[Any]] | None = None,
    ) -> None:
        self.where, self.sockets = where or {}, sockets or []
        self.origins = origins or []
        self.pid_file, self.control = pid_file, control
        self.owned, self.daemon, self.report = owned, daemon, report
        self.worker, self.problem, self.reload = worker, problem, reload
        self.entry, self.files, self.renewal = entry, files, renewal
        self.drained, self.ops = drained, ops or []
        self._registration: Registration | None = None
        self.came_from_another = self.came_over_execv = False
        #: The reasons why descriptors from another process were rejected.
        self.rejected: list[str] = []

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that another process gets, the sockets first."""
        return [
            *self.sockets,
            *(fd for fd in (self.pid_file, self.control) if fd is not None),
        ]

    @property
    def kept(self) -> list[int]:
        """All descriptors that stay open over execv."""
        more = [self.report, self.entry, *(fd for fd, _ in self.ops)]
        if self.worker is not None:
            more += descriptors_of(self.worker)
        return self.descriptors + [fd for fd in more if fd not in (None, -1)]

    def take_sockets(self) -> list[ListeningSocket]:
        """Return the sockets; from now on the caller must close them.

        If another process has sent them, only one thing counts that it says of them: the
        labels of passed sockets (fd://NAME), whose files this process never removes.
        A descriptor that is not a listening socket is closed; ``rejected`` gets the reason.
        """
        fds, self.sockets = self.sockets, []
        origins = self.origins
        if len(origins) != len(fds):
            origins = [((), None)] * len(fds)
        if self.came_from_another:
            from paste_wspbus.process.handing_over import received_sockets

            return list(received_sockets(self, fds, origins))
        return [
            ListeningSocket(
                socket.socket(fileno=fd), owned=self.owned, labels=labels, file=file
            )
            for fd, (labels, file) in zip(fds, origins, strict=True)
        ]

    def take_ops(self) -> list[list[Any]]:
        """Return ``ops``; from now on the caller must close the descriptors."""
        came, self.ops = self.ops, []
        return came

    def forget(self) -> None:
        """Close all descriptors that were meant for another process."""
        for fd in self.descriptors:
            os.close(fd)

    def abandon(self, pid_file: str | None) -> None:
        """Remove the inherited files, because the start failed before it could hold them.

        :param pid_file: the path of the PID file; None if it is not known.
        """
        from paste_wspbus.control.server import Control

        entry, lock = self.registration(), self.lock(pid_file)
        control = entry.control if entry else lock.control if lock else ''
        if control and self.control is not None:
            socket_ = Control(control, {})
            socket_.adopt(self.control)
            socket_.close()
        if entry is not None:
            entry.close()
        if lock is not None:
            lock.release()

    def registration(self) -> Registration | None:
        """Return the entry of the site, which the program before this one has made."""
        if self.entry is not None:
            from paste_wspbus.control.register import Registration

            self._registration = Registration.adopt(self.entry)
            self.entry = None
        return self._registration

    def lock(
        self, path: str | None, make: Callable[[str], PIDLock] | None = None
    ) -> PIDLock | None:
        """Return the PID file that this process holds already.

        :param path: the path to take if the system does not name it; a relative path
            may lead to another file now, because the working folder follows a link.
        :param make: makes the object; `PIDLock` if None.
        """
        if self.pid_file is None:
            return None
        from paste_wspbus.unix.pid_lock import PIDLock

        with contextlib.suppress(OSError):
            held = os.readlink(f'/proc/self/fd/{self.pid_file}')
            if held.endswith('.lock'):
                path = held.removesuffix('.lock')
        if path is None:
            return None
        lock = (make or PIDLock)(path)
        lock.adopt(self.pid_file)
        return lock

    # These methods hand it from a process to itself, over execv.

    def to_environ(self, environ: MutableMapping[str, str]) -> None:
        """Hand it to the program that this process executes next."""
        import json  # imported late: a start that inherits nothing does not need it

        environ[VARIABLE] = json.dumps(
            {
                'pid': os.getpid(),
                'where': self.where,
                'sockets': self.sockets,
                'origins': self.origins,
                'pid_file': self.pid_file,
                'control': self.control,
                'owned': self.owned,
                'daemon': self.daemon,
                'report': self.report,
                'worker': self.worker,
                'problem': self.problem,
                'reload': self.reload,
                'entry': self.entry,
                'files': self.files,
                'renewal': self.renewal,
                'drained': self.drained,
                'ops': self.ops,
            }
        )

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Inheritance:
        """Return what this process inherits from the program before it: usually nothing."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return cls()
        import json

        from paste_wspbus.process.inherited_fields import are_right

        try:
            fields = json.loads(text)
            # A child may have got the variable by accident; then the ID is another one.
            if fields.pop('pid') == os.getpid() and are_right(fields):
                inheritance = cls(**fields)
                for fd in inheritance.kept:
                    os.set_inheritable(fd, False)
                inheritance.came_over_execv = True
                return inheritance
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        return cls()


def descriptors_of(worker: Any) -> list[int]:
    """Return the descriptors of a worker: its connection, scoreboard, ledger and lease."""
    from paste_wspbus.role import Role

    connection, role, *boards = worker
    role = Role(*role)
    return [connection, *boards, role.ledger, role.lease]

"""What a process leaves to the one that takes its place: its sockets, its PID lock."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

#: Carries it over execv(2): which process it is for, and the descriptors.
VARIABLE = 'WSPSERVE_INHERITANCE'

#: sendmsg(2) takes 253 (SCM_MAX_FD).
MAX_DESCRIPTORS = 253


class Inheritance:
    """``sockets``: descriptors of listening sockets, and ``where``: the settings
    that they were bound for; ``pid_file`` and ``control``: those of the locked
    file and of the control socket.

    ``owned``: whether nobody else accepts from the sockets (see
    `sockets.ListeningSocket`); ``daemon``: whether the process is one already;
    ``report``: where somebody waits for the start still; ``worker``: of a
    process that has a supervisor, its connection's descriptor and the fields of
    its role; ``problem``: the traceback to show in the place of the site, and
    {path: signature} of the files whose change may heal it; ``reload``: what has
    changed, and since when (time.monotonic) that is being reloaded. These four
    over execv alone.
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
        worker: tuple[int, list[Any]] | None = None,
        problem: tuple[str, dict[str, Any]] | None = None,
        reload: tuple[str, float] | None = None,
    ) -> None:
        self.where, self.sockets = where or {}, sockets or []
        self.pid_file, self.control = pid_file, control
        self.owned, self.daemon, self.report = owned, daemon, report
        self.worker, self.problem, self.reload = worker, problem, reload

    @property
    def descriptors(self) -> list[int]:
        """All of them, the sockets first."""
        return [
            *self.sockets,
            *(fd for fd in (self.pid_file, self.control) if fd is not None),
        ]

    @property
    def kept(self) -> list[int]:
        """All that stay open over execv."""
        connection = self.worker[0] if self.worker else None
        more = [fd for fd in (self.report, connection) if fd is not None]
        return self.descriptors + more

    def take_sockets(self) -> list[int]:
        """The descriptors of the sockets; they are the caller's from now on."""
        taken, self.sockets = self.sockets, []
        return taken

    def forget(self) -> None:
        """Close all of it."""
        for fd in self.descriptors:
            os.close(fd)

    # From a process to itself, over execv.

    def to_environ(self, environ: MutableMapping[str, str]) -> None:
        """Leave it to the program that this process executes next."""
        import json  # a start that inherits nothing has no use for it

        environ[VARIABLE] = json.dumps(
            {
                'pid': os.getpid(),
                'where': self.where,
                'sockets': self.sockets,
                'pid_file': self.pid_file,
                'control': self.control,
                'owned': self.owned,
                'daemon': self.daemon,
                'report': self.report,
                'worker': self.worker,
                'problem': self.problem,
                'reload': self.reload,
            }
        )

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Inheritance:
        """What the program left that was this process before: mostly nothing."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return cls()
        import json

        try:
            left = json.loads(text)
            if left.pop('pid') != os.getpid():
                return cls()  # a child's, which got the variable by accident
            inheritance = cls(**left)
            for fd in inheritance.kept:
                os.set_inheritable(fd, False)
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            return cls()
        return inheritance

    # From process to process, over a Unix socket.

    def send(self, connection: socket.socket) -> None:
        """Send it (SCM_RIGHTS, unix(7))."""
        import json

        left: dict[str, Any] = {
            'where': self.where,
            'sockets': len(self.sockets),
            'pid_file': self.pid_file is not None,
            'control': self.control is not None,
            'owned': self.owned,
        }
        socket.send_fds(connection, [json.dumps(left).encode()], self.descriptors)

    @classmethod
    def receive(cls, connection: socket.socket) -> Inheritance | None:
        """Wait for it; None if the other end leaves without one."""
        import json

        text, fds, _, _ = socket.recv_fds(connection, 65536, MAX_DESCRIPTORS)
        if not text:
            return None
        left = json.loads(text)
        if 'sockets' not in left:  # an error: it does not leave yet, or to another
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        control = fds.pop() if left['control'] else None
        pid_file = fds.pop() if left['pid_file'] else None
        return cls(left['where'], fds, pid_file, control, left['owned'])

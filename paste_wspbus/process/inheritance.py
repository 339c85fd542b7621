"""The inheritance that a process hands to its successor: its sockets and its PID lock."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from paste_wspbus.errors import BindError
from paste_wspbus.listening.sockets import ListeningSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
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

#: The number of descriptors that sendmsg(2) takes (SCM_MAX_FD).
MAX_DESCRIPTORS = 253


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
            more += _descriptors(self.worker)
        return self.descriptors + [fd for fd in more if fd not in (None, -1)]

    def take_sockets(self) -> list[ListeningSocket]:
        """Return the sockets; from now on the caller must close them.

        Only one thing counts that another process says of its sockets: the labels of the
        sockets that were passed to it (fd://NAME), whose files this process never removes.
        A descriptor that is not a listening socket is closed; ``rejected`` gets the reason.
        """
        fds, self.sockets = self.sockets, []
        origins = self.origins
        if len(origins) != len(fds):
            origins = [((), None)] * len(fds)
        if self.came_from_another:
            return list(self._received(fds, origins))
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

    def _received(
        self, fds: list[int], origins: list[Any]
    ) -> Iterator[ListeningSocket]:
        from paste_wspbus.listening.passed import received

        for fd, (labels, _) in zip(fds, origins, strict=True):
            try:
                yield received(fd, owned=self.owned and not labels, labels=labels)
            except BindError as error:
                self.rejected.append(error.reason)

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
        if self.entry is not None and self._registration is None:
            from paste_wspbus.control.register import Registration

            self._registration = Registration.adopt(self.entry)
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
        import json  # imported here: a start that inherits nothing does not need it

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

        try:
            fields = json.loads(text)
            # A child may have got the variable by accident; then the ID is another one.
            if fields.pop('pid') == os.getpid() and _are_right(fields):
                inheritance = cls(**fields)
                for fd in inheritance.kept:
                    os.set_inheritable(fd, False)
                inheritance.came_over_execv = True
                return inheritance
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        return cls()

    # These methods hand it to another process, over a Unix socket.

    def send(self, connection: socket.socket) -> None:
        """Send the sockets and the PID file to another process (SCM_RIGHTS, unix(7)).

        The other process opens its own control socket: from a descriptor, it could not
        know which clients can connect to it.
        """
        import json

        fields: dict[str, Any] = {
            'where': self.where,
            'sockets': len(self.sockets),
            'origins': self.origins,
            'pid_file': self.pid_file is not None,
            'control': False,  # earlier versions handed it over
            'owned': self.owned,
        }
        fds = [*self.sockets, *([] if self.pid_file is None else [self.pid_file])]
        socket.send_fds(connection, [json.dumps(fields).encode()], fds)

    @classmethod
    def receive(cls, connection: socket.socket) -> Inheritance | None:
        """Wait for the inheritance from the other process; None if it hands nothing over.

        Its descriptors are not checked yet. Its text is not trusted: it only says which
        descriptor is which.
        """
        import json

        text, fds, _, _ = socket.recv_fds(connection, 65536, MAX_DESCRIPTORS)
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            fields = json.loads(text)
            # Without 'sockets', it is an error: the site does not stop, or hands over to
            # another process.
            count = fields['sockets']
            if type(count) is not int or count < 0:
                raise TypeError(count)
            files = [fields[key] is True for key in ('pid_file', 'control')]
            if len(fds) != count + sum(files):
                raise ValueError(count)
        except (ValueError, LookupError, TypeError, RecursionError):
            for fd in fds:
                os.close(fd)
            return None
        if files[1]:
            os.close(fds.pop())
        pid_file = fds.pop() if files[0] else None
        came = cls({}, fds, pid_file, owned=fields.get('owned') is True)
        origins = fields.get('origins')
        if isinstance(origins, list) and all(map(_is_origin, origins)):
            came.origins = [(labels, None) for labels, _ in origins]
        came.came_from_another = True
        return came


# -- what the environment variable may contain ------------------------------------


def _are_right(fields: dict[str, Any]) -> bool:
    """Whether each field has the type and the descriptors that this version writes.

    A person may have written the variable by hand: it must not cause an error later.
    """
    return all(name in _RIGHT and _RIGHT[name](fields[name]) for name in fields)


def _is_open(fd: object) -> bool:
    if type(fd) is not int or not 2 < fd < 2**31:
        return False
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_socket(fd: object) -> bool:
    return _is_open(fd) and stat.S_ISSOCK(os.fstat(fd).st_mode)  # type: ignore[arg-type]


def _can_listen(fd: object) -> bool:
    from paste_wspbus.listening.passed import what_is_wrong_with

    if not _is_open(fd):
        return False
    # The sockets of a supervisor may only be bound: its first worker listens.
    return not what_is_wrong_with(fd, listening=False)  # type: ignore[arg-type]


def _is_role(value: object) -> bool:
    from paste_wspbus.role import Role

    fields = Role()
    if not isinstance(value, list) or len(value) > len(fields):
        return False
    return all(
        isinstance(one, type(usual) if usual is not None else (int, float, type(None)))
        for one, usual in zip(value, fields, strict=False)
    )


def _is_worker(value: Any) -> bool:
    # Earlier versions had no scoreboard.
    if not (_are(value, int, list) or _are(value, int, list, int)):
        return False
    if not _is_socket(value[0]) or not _is_role(value[1]):
        return False
    return all(_is_file(fd) for fd in _descriptors(value)[1:] if fd != -1)


def _descriptors(worker: Any) -> list[int]:
    """Return those of a worker: its connection, its scoreboard, the ledger, its lease."""
    from paste_wspbus.role import Role

    connection, role, *boards = worker
    role = Role(*role)
    return [connection, *boards, role.ledger, role.lease]


def _is_file(fd: object) -> bool:
    return _is_open(fd) and stat.S_ISREG(os.fstat(fd).st_mode)  # type: ignore[arg-type]


def _are(value: object, *types: type | tuple[type, ...]) -> bool:
    """Whether a value is a list with one value of each of these types, in this order."""
    return (
        isinstance(value, list)
        and len(value) == len(types)
        and all(map(isinstance, value, types))
    )


def _is_text_table(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str) for pair in value.items() for one in pair
    )


def _is_origin(value: Any) -> bool:
    if not _are(value, list, object):
        return False
    are_labels = all(isinstance(label, str) for label in value[0])
    return are_labels and (value[1] is None or _are(value[1], int, int))


def _is_ops_socket(value: Any) -> bool:
    if not _are(value, int, (list, type(None))) or not _can_listen(value[0]):
        return False
    return value[1] is None or _are(value[1], int, int)


_RIGHT: dict[str, Callable[[Any], bool]] = {
    'where': _is_text_table,
    'sockets': lambda value: isinstance(value, list) and all(map(_can_listen, value)),
    'origins': lambda value: isinstance(value, list) and all(map(_is_origin, value)),
    'pid_file': lambda value: value is None or _is_file(value),
    'control': lambda value: value is None or _can_listen(value),
    'owned': lambda value: isinstance(value, bool),
    'daemon': lambda value: isinstance(value, bool),
    'report': lambda value: value is None or _is_open(value),
    'worker': lambda value: value is None or _is_worker(value),
    'problem': lambda value: value is None or _are(value, str, dict),
    'reload': lambda value: value is None or _are(value, float, bool),
    'entry': lambda value: value is None or _is_file(value),
    'drained': lambda value: isinstance(value, bool),
    'ops': lambda value: isinstance(value, list) and all(map(_is_ops_socket, value)),
    'files': lambda value: value is None or _are(value, str, str),
    'renewal': lambda value: (
        value is None or _are(value, str, float, float, (str, type(None)))
    ),
}

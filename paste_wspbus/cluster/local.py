"""The engine of one machine: files in the runtime folder, under a lock; no server."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import select
import socket
import time

from paste_wspbus.cluster.engine import (
    BATCH,
    FORGOTTEN,
    MAX_MESSAGE,
    MAX_NOTE,
    Answer,
    EngineAway,
    Member,
    Message,
    Received,
    Record,
    Seen,
    encoded,
    received,
    version_of,
)
from paste_wspbus.unix.kernel_timer import boot_clock as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

    from paste_wspbus.cluster.engine import Wish
    from paste_wspbus.cluster.settings import Settings

#: Where the kernel says which boot of the machine this is.
BOOT_ID = '/proc/sys/kernel/random/boot_id'

#: Seconds to wait for the lock: another member holds it for well under a millisecond.
PATIENCE = 1.0

#: Seconds that a message waits, at most, for a member that is behind with reading.
LISTENS = 0.5

#: The datagram for messages that had no room: it goes before the next message.
LOST = b''

#: The most bytes that are read of the file.
MAX_STATE = 1 << 24


class LocalEngine:
    """The engine of several sites of one name on one machine, all of one user.

    A file has the leases and the members; each step reads and replaces it under flock(2).
    Its run changes at each boot of the machine, and if the file is lost: then nothing that
    it says of leases counts. The members send each other datagrams on Unix sockets in the
    same folder.

    :param folder: a folder that only this user can write to.
    """

    def __init__(self, settings: Settings, folder: str) -> None:
        self._ttl = settings.ttl
        self._settings = settings
        self._folder = os.path.join(folder, f'{settings.name}.cluster')
        self._path = os.path.join(self._folder, 'state')
        self._boot = ''
        with contextlib.suppress(FileNotFoundError), open(BOOT_ID) as file:
            self._boot = file.read().strip()
        #: The run: it changes with each file.
        self._epoch = ''
        self._socket: socket.socket | None = None
        self._own = ''
        #: The sockets of members that did not read the last message: nobody waits for them.
        self._deaf: set[str] = set()

    # -- the file -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _state(self) -> Generator[dict[str, Any]]:
        """Yield what the file has, and write it back if it has changed.

        :raises EngineAway: if the folder or the file cannot be used.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            fd = os.open(
                f'{self._path}.lock',
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                _lock(fd)
                state, text = self._read()
                yield state
                new = json.dumps(state)
                if new != text:
                    self._write(new)
            finally:
                os.close(fd)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise EngineAway(f'{self._folder} cannot be used: {reason}') from error

    def _read(self) -> tuple[dict[str, Any], str]:
        text = ''
        with (
            contextlib.suppress(FileNotFoundError, ValueError),
            open(self._path) as file,
        ):
            text = file.read(MAX_STATE)
        state: Any = {}
        with contextlib.suppress(ValueError, RecursionError):
            state = json.loads(text)
        keys = 'leases', 'fences', 'members', 'facts'
        if not isinstance(state, dict):
            state = {}
        read: dict[str, Any] = {
            key: one if isinstance(one := state.get(key), dict) else {} for key in keys
        }
        read['epoch'] = str(state.get('epoch') or secrets.token_hex(8))
        self._epoch = f'{self._boot}:{read["epoch"]}'
        return read, text

    def _write(self, text: str) -> None:
        new = f'{self._path}.new'
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600)
        with open(fd, 'w') as file:
            file.write(text)
        os.replace(new, self._path)

    # -- the verbs ----------------------------------------------------------------------

    def join(
        self,
        member: Member,
        fences: Mapping[str, int],
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """See `Engine.join`."""
        now = clock()
        with self._state() as state:
            state['members'][member.id] = [*member, now, self._epoch]
            if facts is not None:
                state['facts'][member.id] = dict(facts)
            for name, fence in fences.items():
                state['fences'][name] = max(fence, _whole(state['fences'].get(name)))
            return self._count(state, now)

    def _count(self, state: dict[str, Any], now: float) -> int:
        """Return the number of members that have reported in time; forget those that have left."""
        for name, one in list(state['members'].items()):
            if not self._is_there(one, now):
                del state['members'][name]
                state['facts'].pop(name, None)
        ages = [now - one[2] for one in state['members'].values()]
        return sum(age <= self._ttl for age in ages)

    def _see(self, state: dict[str, Any], member: Member, now: float) -> int:
        """Note that a member that has joined is there; return `Answer.members`."""
        known = state['members'].get(member.id)
        if member.id not in state['facts'] or not self._is_there(known, now):
            return 0
        known[2] = now
        return self._count(state, now)

    def _is_there(self, one: Any, now: float) -> bool:
        try:
            _, _, at, epoch = one
            return bool(epoch == self._epoch and now - at < self._ttl * FORGOTTEN)
        except (ValueError, TypeError):
            return False

    def members(self) -> list[Seen]:
        """See `Engine.members`."""
        now = clock()
        with self._state() as state:
            found = [
                Seen(Member(*one[:2]), now - one[2], state['facts'].get(one[0]) or {})
                for one in state['members'].values()
                if self._is_there(one, now)
            ]
        return sorted(found, key=lambda one: (one.member.machine, one.member.id))

    def leave(self, member: Member) -> None:
        """See `Engine.leave`."""
        with self._state() as state:
            state['members'].pop(member.id, None)
            state['facts'].pop(member.id, None)

    def lease(self, name: str, member: Member, wish: Wish) -> Answer:
        """See `Engine.lease`."""
        now = clock()
        with self._state() as state:
            members = self._see(state, member, now)
            had = self._record(state, name, now)
            if wish.act == 'enter':
                answer = self._enter(state, name, member, wish, had, now)
                return answer._replace(members=members)
            new = self._granted(state, name, member, wish, had, now)
            if new is not None:
                note = wish.note[:MAX_NOTE]
                new = new._replace(note=note or new.note)
                held_since = now - new.held_for
                state['leases'][name] = [
                    *new[:4],
                    now,
                    held_since,
                    new.machine,
                    self._ttl,
                    new.note,
                    new.entered,
                ]
                new = new._replace(ttl=self._ttl)
            return Answer(new is not None, new or had, self._epoch, now, members)

    def _enter(
        self,
        state: dict[str, Any],
        name: str,
        member: Member,
        wish: Wish,
        had: Record | None,
        now: float,
    ) -> Answer:
        answer = Answer(False, had, self._epoch, now)
        leader = answer.leader
        if leader is None or leader.fence != wish.fence:
            return answer
        state['leases'][name] = [*state['leases'][name][:8], leader.note, member.id]
        return Answer(True, leader._replace(entered=member.id), self._epoch, now)

    def _granted(
        self,
        state: dict[str, Any],
        name: str,
        member: Member,
        wish: Wish,
        had: Record | None,
        now: float,
    ) -> Record | None:
        """Return the record that a wish makes; None if it is not granted."""
        is_own = had is not None and (had.holder, had.fence) == (member.id, wish.fence)
        stored = _whole(state['fences'].get(name))
        if wish.act == 'take' and wish.version == version_of(had, self._epoch):
            fence = max(stored + 1, time.time_ns() // 1000, wish.fence + 1)
            state['fences'][name] = fence
            return Record(member.id, fence, 0, self._epoch, 0, 0, member.machine)
        if had is None:
            is_lost = wish.act == 'renew'
        else:
            is_lost = wish.act == 'renew' and (
                had.epoch != self._epoch and had.fence < wish.fence
            )
        if is_lost:
            state['fences'][name] = max(stored, wish.fence)
            return Record(member.id, wish.fence, 0, self._epoch, 0, 0, member.machine)
        if had is None or not is_own:
            return None
        if wish.act == 'renew':
            return had._replace(renewals=had.renewals + 1, epoch=self._epoch, age=0.0)
        if wish.act == 'free':
            freed = had._replace(holder='', machine='', age=0.0, held_for=0.0)
            return freed._replace(renewals=had.renewals + 1, epoch=self._epoch)
        return None

    def _record(self, state: dict[str, Any], name: str, now: float) -> Record | None:
        try:
            holder, fence, renewals, epoch, at, since, machine, ttl, *said = state[
                'leases'
            ][name]
            return Record(
                str(holder),
                int(fence),
                int(renewals),
                str(epoch),
                now - float(at),
                now - float(since),
                str(machine),
                float(ttl),
                *map(str, said[:2]),
            )
        except (KeyError, ValueError, TypeError):
            return None

    def record(self, member: Member, facts: Mapping[str, Any]) -> None:
        """See `Engine.record`."""
        with self._state() as state:
            state['facts'][member.id] = dict(facts)

    # -- messages -----------------------------------------------------------------------

    def send(self, *messages: Message) -> None:
        """See `Engine.send`. A member that does not read for a while loses messages."""
        ours, secret = self._settings.name, self._settings.secret
        came = [encoded(one, ours, secret) for one in messages]
        try:
            names = {one for one in os.listdir(self._folder) if one.endswith('.sock')}
        except FileNotFoundError:
            return
        self._deaf &= names
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for name in sorted(names, key=lambda name: name in self._deaf):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    self._send_to(sock, folder, name, came)
        finally:
            os.close(folder)

    def _send_to(
        self, sock: socket.socket, folder: int, name: str, came: list[bytes]
    ) -> None:
        """Send messages to one member; wait a moment if that has much to read."""
        is_deaf = name in self._deaf
        sock.settimeout(0 if is_deaf else LISTENS)
        try:
            sock.connect(f'/proc/self/fd/{folder}/{name}')
            for data in [LOST, *came] if is_deaf else came:
                sock.send(data)
            self._deaf.discard(name)
        except (ConnectionRefusedError, FileNotFoundError):  # its member has ended
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
        except OSError:
            self._deaf.add(name)

    def receive(self, timeout: float) -> Received:
        """See `Engine.receive`."""
        if self._socket is None:
            self._listen()
        assert self._socket is not None
        came: list[bytes] = []
        try:
            select.select([self._socket], [], [], timeout)
            while len(came) < BATCH:  # others may send without end
                came.append(self._socket.recv(4 * MAX_MESSAGE))
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            raise EngineAway(str(error)) from error
        messages = [data for data in came if data != LOST]
        return received(messages, self._settings, missed=LOST in came)

    def _listen(self) -> None:
        with self._state():
            pass  # the folder exists now
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        self._own = os.path.join(self._folder, f'{os.getpid()}-{time.time_ns()}.sock')
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sock.bind(f'/proc/self/fd/{folder}/{os.path.basename(self._own)}')
        except OSError as error:
            sock.close()
            raise EngineAway(f'{self._own}: {error.strerror}') from error
        finally:
            os.close(folder)
        self._socket = sock

    def warnings(self) -> list[str]:
        """See `Engine.warnings`."""
        return []

    def close(self) -> None:
        """See `Engine.close`."""
        if self._own:
            with contextlib.suppress(OSError):
                os.unlink(self._own)
        if self._socket is not None:
            self._socket.close()


def _lock(fd: int) -> None:
    """Lock the file.

    :raises OSError: if another process holds the lock for too long, as one that was stopped.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(
                    errno.EAGAIN, 'a process that hangs has locked it'
                ) from None
            time.sleep(0.005)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0

"""How waitress serves faster in our adapter: each way replaces one part of waitress, and can be switched off."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from functools import partial

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ThreadedTaskDispatcher, WSGITask

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import SettingError
from paste_wspbus.forks import close_in_child
from paste_wspbus.servers.thread_queue import ThreadQueue
from paste_wspbus.values import nearest, split_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from waitress.server import BaseWSGIServer

    from paste_wspbus.servers.free_threads import Sharing

#: The environment variable with the names of the ways that are switched off.
WITHOUT = 'WSPBUS_WAITRESS_WITHOUT'

#: The names of the ways.
ONE_SEND, QUEUE, EPOLL, HEADS = 'one-send', 'queue', 'epoll', 'heads'
WAYS = (ONE_SEND, QUEUE, EPOLL, HEADS)

#: The major version of waitress whose parts are replaced here.
MAJOR = 3

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768

#: Seconds after which each connection is armed again, whatever it is armed for.
ARMED_AGAIN = 1.0

#: The most events that are taken from epoll at once.
EVENTS = 256


def switched_off() -> frozenset[str]:
    """Return the ways that `WITHOUT` names, separated by commas or spaces; ``all`` is all of them.

    :raises SettingError: if it names anything else.
    """
    words = split_list(os.environ.get(WITHOUT, ''))
    for word in words:
        if word not in (*WAYS, 'all'):
            hint = nearest(word, [*WAYS, 'all'])
            raise SettingError(None, f'{WITHOUT}: there is no {word!r}{hint}')
    return frozenset(WAYS if 'all' in words else words)


def ways() -> frozenset[str]:
    """Return the names of the ways to use: those whose conditions hold here.

    :raises SettingError: if the environment variable `WITHOUT` names an unknown way.
    """
    used = set(WAYS) - switched_off()
    if _major() != MAJOR:
        used.clear()
    # The queue is fast because of Python's own locks, which gevent and eventlet
    # replace.
    if threads_are_greenlets():
        used.discard(QUEUE)
    # Only Linux has epoll(7), and both of them take it away.
    if threads_are_greenlets() or not hasattr(select, 'epoll'):
        used.discard(EPOLL)
    return frozenset(used)


def _major() -> int | None:
    """Return the major version of the installed waitress, or None if nothing says it."""
    folder = os.path.dirname(os.path.dirname(wasyncore.__file__))
    try:
        names = [name for name in os.listdir(folder) if name.startswith('waitress-')]
    except OSError:  # waitress is in a zip file
        names = []
    if len(names) == 1 and names[0].endswith(('.dist-info', '.egg-info')):
        text = names[0].removeprefix('waitress-')
    else:  # its import takes as long as that of this package
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version('waitress')
        except PackageNotFoundError:
            return None
    major = text.partition('.')[0]
    return int(major) if major.isdecimal() else None


class OneSend(WSGITask):  # type: ignore[misc]
    """A request whose head and first chunk leave in one send(2); waitress makes two of them."""

    #: Both write a chunk as waitress does; ``joined`` is the length of the first one.
    write_one = write_more = WSGITask.write
    joined = 0

    def write(self, data: Any) -> None:
        """Write a chunk, the first one together with the head.

        This collects what waitress's own method writes for the first chunk, and sends
        it at once. Only this thread writes to the channel meanwhile. A chunk that is
        not bytes is not joined: waitress sends the head before it refuses such a chunk.
        """
        if (
            self.wrote_header
            or type(data) is not bytes
            or not 0 < len(data) <= LONGEST_JOINED
        ):
            self.write_more(data)
            return
        channel, pieces = self.channel, []  # type: ignore[var-annotated]
        channel.write_soon = pieces.append
        try:
            self.write_one(data)
            self.joined = len(data)
        finally:
            del channel.write_soon  # its class's own again
            if pieces:
                _send(channel, b''.join(pieces))


def _send(channel: Any, data: bytes) -> None:
    """Send bytes as ``channel.write_soon``, but buffer only what the system does not take.

    An error is found there again.
    """
    lock = channel.outbuf_lock
    lock.acquire()  # a Condition's __enter__ is Python, this is not
    try:
        sent = 0
        if (
            channel.connected
            and not channel.total_outbufs_len
            and channel.adj.send_bytes <= len(data)
        ):
            try:
                sent = channel.send(data, do_close=False)
            except OSError:
                sent = 0
        if sent < len(data):
            channel.write_soon(data[sent:])
    finally:
        lock.release()


class QueueDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that get their requests from a `ThreadQueue`.

    waitress has a Condition: each request makes a lock and waits for another one, and a
    thread that wakes up waits for the lock of whoever woke it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: The channels whose request waits for a thread. None has a thread look at
        #: `stop_count`.
        self._waiting = ThreadQueue()
        #: What each thread serves: {its ident: (channel, its first request)}.
        self._served: dict[int, tuple[Any, list[Any]]] = {}
        #: It needs to know when no thread is free, and when one is again.
        self.sharing: Sharing | None = None

    def add_task(self, task: Any) -> None:
        """Queue the request of a channel; warn, as waitress does, if no thread is free for it."""
        self._waiting.put(task)
        waiting = len(self._waiting)
        if waiting > len(self.threads) - len(self._served):
            depth = waiting - len(self.threads) + self._busy()
            if depth > 0:
                self.queue_logger.warning('Task queue depth is %d', depth)

    def _busy(self) -> int:
        """Return how many threads have a request to answer.

        A thread whose channel has another first request than it began with, or none, has
        answered and is on its way to the queue. waitress takes it for busy, and warns.
        """
        served = list(self._served.values())
        return sum(channel.requests[:1] == first for channel, first in served)

    def load(self) -> tuple[int, int]:
        """Return how many threads have a request, and how many requests wait for one."""
        return len(self._served), len(self._waiting)

    def free(self) -> int:
        """Return how many threads have no request, besides those for requests that wait."""
        threads, waiting = len(self.threads), len(self._waiting)
        idle = threads - len(self._served) - waiting
        return idle if idle > 1 else threads - self._busy() - waiting

    def handler_thread(self, thread_no: int) -> None:
        """Serve requests until `set_thread_count` stops this thread."""
        own, served, get = threading.get_ident(), self._served, self._waiting.get
        lock, sharing, threads = threading.Lock(), self.sharing, self.threads
        lock.acquire()
        while True:
            channel = get(lock)
            if self.stop_count and self._stops(thread_no):
                self._waiting.put(channel)  # for `pending`
                return
            if channel is None:
                continue
            served[own] = channel, channel.requests[:1]
            if sharing is not None and len(served) >= len(threads):
                sharing.no_thread_is_free()
            try:
                channel.service()
            except BaseException:
                self.logger.exception('Exception when servicing %r', channel)
            del served[own]
            if sharing is not None:
                sharing.has_answered(not self._waiting)

    def _stops(self, thread_no: int) -> bool:
        with self.lock:
            if not self.stop_count:
                return False
            self.stop_count -= 1
            self.threads.discard(thread_no)
            self.thread_exit_cv.notify()
            return True

    def set_thread_count(self, count: int) -> None:
        """Start or stop threads until there are ``count``."""
        super().set_thread_count(count)
        for _ in range(self.stop_count):
            self._waiting.put(None)

    def pending(self) -> Iterator[Any]:
        """Take each request that waits for a thread; yield its channel."""
        with contextlib.suppress(IndexError):
            while True:
                channel = self._waiting.take()
                if channel is not None:
                    yield channel
        for _ in range(self.stop_count):  # for threads that still serve
            self._waiting.put(None)


if hasattr(select, 'epoll'):
    _IN, _OUT, _ONCE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLONESHOT


class EpollLoop:
    """waitress's loop on epoll(7); a thread that has answered arms its connection itself.

    In waitress such a thread writes to a pipe, which wakes the loop; the loop asks each
    connection what it waits for, and sleeps again. Here each connection is armed for one
    event (EPOLLONESHOT). What it waits for, its `readable` and `writable` say, as in
    waitress. It is armed anew by whoever may have changed that: the loop after an event,
    or a thread where waitress would have it write to the pipe.

    Why no wake-up is lost. `EpollChannel.arm` asks what the connection waits for after it
    has armed it, and arms it again if that is something else by now. So take the last of
    all calls of epoll_ctl(2) for a connection. If what it waits for has changed since its
    thread asked, whoever changed it arms after the change, and that call was not the last
    one. And should this overlook something: each connection is armed again every second.

    :raises OSError: if no descriptor is free.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.arm, self.register = self._epoll.modify, self._epoll.register
        #: What waitress calls its map: {descriptor: dispatcher}.
        self.map = _Map(self)
        #: The channel that this thread serves.
        self.serving = _Serving()
        #: The channels whose request is to be handed over to a thread.
        self.ready: list[Any] = []
        #: Seconds after which the loop looks at the servers again, at most; and usually.
        self.within = self.longest = ARMED_AGAIN
        self.sharing: Sharing | None = None
        #: What each listening socket is armed for.
        self.armed: dict[int, int] = {}
        # A child shares the epoll with its parent: what it closed would be gone for both.
        close_in_child(self, EpollLoop.close)

    def close(self) -> None:
        """Close the epoll: nothing is armed any more."""
        self._epoll.close()

    def unregister(self, fd: int) -> None:
        """Forget a descriptor before it is closed: a copy in a forked child would keep it here."""
        # ValueError: the epoll is closed.
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def adopt(self, server: BaseWSGIServer) -> None:
        """Do for the channels of a server what it does for them in waitress."""
        server.pull_trigger = partial(self.pull_trigger, server)
        server.add_task = partial(self.add_task, server)
        server.active_channels = _Channels()

    def listen_again(self, servers: list[BaseWSGIServer]) -> None:
        """Arm the listening sockets; another thread than the loop's calls this."""
        for server in servers:
            with contextlib.suppress(OSError, ValueError):  # the stop has closed it
                if self._has(fd := server.socket.fileno(), server):
                    self.armed[fd] = _IN
                    self.arm(fd, _IN)

    def _has(self, fd: int, server: BaseWSGIServer) -> bool:
        """Whether this descriptor is still that of the server."""
        return self.map.get(fd) is server

    def pull_trigger(self, server: BaseWSGIServer) -> None:
        """Do what waitress pulls the trigger of a server for: arm this thread's channel."""
        served = self.serving.channel
        if served is None:  # a thread of the application
            server.trigger.pull_trigger()
        else:
            served.arm_from_thread()

    def add_task(self, server: BaseWSGIServer, channel: EpollChannel) -> None:
        """Hand the request of a channel over to a thread; the loop does it before it sleeps.

        A thread that was woken earlier would wait for the GIL, which the loop holds.
        """
        if self.serving.channel is None:
            self.ready.append(channel)
        else:
            server.task_dispatcher.add_task(channel)

    def run(self, servers: list[BaseWSGIServer], timeout: float) -> None:
        """Serve until the map is empty, as `wasyncore.loop` does.

        :param timeout: the most seconds between two looks at the servers.
        """
        for fd, one in self.map.items():
            if one not in servers:
                self.arm(fd, _IN)  # the reader of a trigger; its event repeats
        listening = {server.socket.fileno(): server for server in servers}
        armed = self.armed = dict.fromkeys(listening, 0)
        due, self.within = 0.0, min(timeout, ARMED_AGAIN)
        self.longest = self.within
        try:
            while self.map:
                for fd, server in listening.items():
                    is_open = self.map.get(fd) is server
                    wanted = _IN if is_open and server.readable() else 0
                    while is_open and wanted != armed[fd]:
                        self.arm(fd, wanted)
                        armed[fd] = wanted
                        # A thread may have armed it in between.
                        wanted = _IN if server.readable() else 0
                while self.ready:
                    channel = self.ready.pop(0)
                    channel.server.task_dispatcher.add_task(channel)
                self._handle(self._epoll.poll(self.within, EVENTS))
                if time.monotonic() >= due:
                    due = time.monotonic() + ARMED_AGAIN
                    self._arm_all()
        finally:
            self.close()

    def _handle(self, events: list[tuple[int, int]]) -> None:
        """Handle events, those of listening sockets last.

        A server that accepts may get the descriptor of a connection that has just been
        closed, and an event of the old one is none of the new one.
        """
        others: dict[int, Any] = {}
        for fd, flags in events:
            one = self.map.get(fd)
            if isinstance(one, EpollChannel):
                one.handle(flags)
            elif one is not None:
                others[fd] = one
        for fd, other in others.items():
            is_open = self.map.get(fd) is other
            if is_open and other.readable():
                wasyncore.read(other)
                if not other.accepting:  # it was a trigger, pulled for whatever reason
                    self._arm_all()
            elif is_open and fd in self.armed:
                # A thread has armed it so late that the loop waits for nothing there again.
                self.arm(fd, 0)
                self.armed[fd] = 0

    def _arm_all(self) -> None:
        for one in list(self.map.values()):
            if isinstance(one, EpollChannel):
                one.arm()


class _Serving(threading.local):
    """What a thread serves."""

    channel: EpollChannel | None = None


class _Channels(dict):  # type: ignore[type-arg]
    """A server's channels, which waitress goes through while threads close some."""

    def values(self) -> Any:
        """Return the channels that are open now, as a list that does not change."""
        return list(super().values())


class _Map(dict):  # type: ignore[type-arg]
    """The map of an `EpollLoop`: what is in it is registered; channels do it themselves."""

    def __init__(self, loop: EpollLoop) -> None:
        super().__init__()
        self.loop = loop

    def __setitem__(self, fd: int, dispatcher: Any) -> None:
        if not isinstance(dispatcher, EpollChannel):
            self.loop.register(fd, _ONCE)
        super().__setitem__(fd, dispatcher)

    def __delitem__(self, fd: int) -> None:
        self.loop.unregister(fd)
        super().__delitem__(fd)


class EpollChannel(HTTPChannel):  # type: ignore[misc]
    """A connection in an `EpollLoop`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.total_outbufs_len = 0  # it is found faster than that of the class
        try:
            self._map.loop.register(self._fileno, _IN | _ONCE)
        except OSError as error:  # the system watches no more descriptors
            self.logger.error('A connection cannot be served: %s', error)
            self.handle_close()

    def service(self) -> None:
        """Answer a request, in one of the dispatcher's threads."""
        serving = self._map.loop.serving
        serving.channel = self
        try:
            super().service()
        finally:
            serving.channel = None

    def arm(self) -> None:
        """Arm the connection for what it waits for; the loop's thread calls this."""
        armed = 0
        while (fd := self._fileno) is not None:
            wanted = _IN if self.readable() else _OUT if self.writable() else 0
            if wanted == armed:
                return
            # OSError: a thread has closed it; ValueError: the loop has ended.
            try:
                self._map.loop.arm(fd, wanted | _ONCE)
            except (OSError, ValueError):
                return
            armed = wanted

    def arm_from_thread(self) -> None:
        """Arm the connection in another thread than the loop's, or close it.

        `handle_close` needs the lock before it closes the descriptor: until the lock is
        released, no new connection has it.

        If the last response has left already, the loop would only close the connection.
        It does not read from it, unless it looks for further requests in advance.
        """
        lock = self.outbuf_lock
        lock.acquire()
        try:
            if not self.connected:
                return
            if (
                self.close_when_flushed
                and not self.total_outbufs_len
                and not self.adj.channel_request_lookahead
            ):
                sharing = self._map.loop.sharing
                if sharing is not None and sharing.is_full and not sharing.is_fast:
                    sharing.a_thread_is_free()  # before the client knows
                self.handle_close()
            else:
                self.arm()
        finally:
            lock.release()

    def handle_close(self) -> None:
        """Close the connection: of two threads, the second one finds it closed."""
        with self.outbuf_lock:
            super().handle_close()

    def handle(self, flags: int) -> None:
        """Handle an event, in the loop's thread, and arm the connection again.

        As in select(2), a connection that is hung up or has failed can be read and
        written: that finds out, and closes it. It may have been armed before it got a
        request to answer, and waits for nothing then: the event is ignored.
        """
        if flags & ~_OUT and self.readable():
            wasyncore.read(self)
        if flags & ~_IN and self._fileno is not None and self.writable():
            wasyncore.write(self)
        self.arm()

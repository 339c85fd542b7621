"""The run of a server that blocks its thread: KeyboardInterrupt makes the server return."""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import signal
import sys
import threading
import time

from paste_wspbus.bus.interrupts import (
    Interrupts,
    in_main_thread,
    threads_are_greenlets,
)
from paste_wspbus.exits import EX_SOFTWARE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType
    from typing import NoReturn

    from paste_wspbus.bus.bus import Bus
    from paste_wspbus.bus.channels import Listener
    from paste_wspbus.bus.greenlets import Interruption

#: Seconds between two KeyboardInterrupts in a server that blocks.
INTERRUPT_AGAIN = 1.0

#: Seconds between two checks whether the server is busy.
LOOK = 0.01

#: The time that a server has to return when the time for requests is over: seconds at
#: most, and the part of the remaining time of the stop.
RETURN, RETURN_SHARE = 2.0, 1 / 3


class ServerRun:
    """One run of a server in this thread. KeyboardInterrupt, raised in the server, ends it.

    The interrupt comes between two requests. So no request is lost, and no application
    can catch the interrupt. After the time for requests is over (`Deadline.cut_at`), it
    may come at any moment. If the server's thread never returns to Python, the server
    gets SIGINT, which it may handle itself. If it still does not return, the bus stops in
    another thread, and the process ends.

    ``thread`` is the ident of the thread.

    :param must_end: returns whether a stop or an exit was asked for.
    """

    def __init__(self, must_end: Callable[[], bool]) -> None:
        self.thread = threading.get_ident()
        self._server: object = None
        self._must_end = must_end
        self._raised = self._ending = self._cuts = self._is_called_out = False
        self._gone = threading.Event()
        self._interrupts: Interrupts | Interruption | None = None

    def end(self, bus: Bus) -> None:
        """Make the server return; any thread and any signal handler may call this.

        :raises KeyboardInterrupt: if the server's own thread calls this, unless that
            could cost a request.
        """
        if self._interrupts is not None and not self._ending:
            self._ending = True
            bus.deadline.begin(bus.stop_timeout, bus.stop_reserve)
            # Not a threading.Thread: its start() takes locks, and a signal handler may
            # call this while the interrupted code holds them.
            _thread.start_new_thread(self._interrupt_again, (bus,))
        if threading.get_ident() == self.thread:
            self.interrupt()

    def _interrupt_again(self, bus: Bus) -> None:
        """Raise KeyboardInterrupt until the server returns, because it may catch the first."""
        bus.draining.set()
        pause, give_up = INTERRUPT_AGAIN, float('inf')
        while not self._gone.is_set():
            now = time.monotonic()
            if now > give_up:
                _stop_without_server(bus)
                return
            if not self._cuts and (bus.hurried or now > bus.deadline.cut_at):
                self._cuts = True
                getattr(self._server, 'cut', lambda: None)()
                remaining = max(bus.deadline.until - now, 0)
                allowed = min(RETURN, remaining * RETURN_SHARE)
                pause, give_up = allowed / 3, now + allowed
            if self._is_busy(sys._current_frames().get(self.thread), is_inside=False):
                self._gone.wait(LOOK)
                continue
            if self.poke() is False:
                self._call_out(bus)
            elif not self._raised:
                self._gone.wait(LOOK)
                continue  # it was busy at that moment
            self._gone.wait(pause)  # it may have much to do before it returns
            self._raised = False

    def _is_busy(self, frame: FrameType | None, is_inside: bool) -> bool:
        is_busy = getattr(self._server, 'is_busy', None)
        return not self._cuts and is_busy is not None and is_busy(frame, is_inside)

    def _call_out(self, bus: Bus) -> None:
        """Send SIGINT, once: the thread is in code that never returns to Python."""
        if self._is_called_out or signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            return
        self._is_called_out = True
        signals = bus.plugins.get('signals')
        if signals is not None and hasattr(signals, 'expect'):
            signals.expect(signal.SIGINT)  # it is not the operator's second signal
        os.kill(os.getpid(), signal.SIGINT)

    def poke(self) -> bool | None:
        """Make the server's thread call `look`; another thread calls this.

        :returns: False if the thread has not done so within a second.
        """
        # Read it once, because the server's thread may reset it.
        interrupts = self._interrupts
        return None if interrupts is None else interrupts.poke()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt, once in INTERRUPT_AGAIN seconds.

        The server's thread calls this. It does nothing if a request could be lost: then
        `_interrupt_again` tries again later.
        """
        if self._gone.is_set() or self._raised:
            return
        if self._is_busy(sys._getframe(), is_inside=True):
            return
        self._raised = True
        raise KeyboardInterrupt

    def look(self) -> None:
        """Interrupt the server if it must end; the server's thread calls this.

        :raises KeyboardInterrupt: if it must end.
        """
        if self._must_end():
            self.interrupt()

    @contextlib.contextmanager
    def interruptible(self, bus: Bus, server: object) -> Generator[None]:
        """Let SIGINT raise KeyboardInterrupt inside the ``with`` block, but not after it.

        This replaces Python's own handler of SIGINT only; a handler of the site stays.

        :param bus: its signal handler gets the signals that the server's thread does not
            handle.
        :param server: may have the methods `is_busy` and `cut` of `BlockingServer`.
        """
        self._server = server
        in_main = in_main_thread()
        usual = (
            in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if usual:
            signal.signal(signal.SIGINT, lambda *_: self.interrupt())
        try:
            kind: type[Interrupts | Interruption] = Interrupts
            if threads_are_greenlets():
                from paste_wspbus.bus.greenlets import Interruption

                kind = Interruption
            hear = functools.partial(_hear, bus)
            with kind(self.look, unheard=hear) as self._interrupts:
                yield
        finally:
            self._gone.set()  # nothing interrupts the thread from here on
            self._interrupts = None
            if usual:
                signal.signal(signal.SIGINT, signal.default_int_handler)


def serve(
    bus: Bus, server: Listener, keep_exit_code: Callable[[SystemExit], None]
) -> Exception | None:
    """Run a server in this thread until it returns.

    :param keep_exit_code: gets the SystemExit that it raises.
    :returns: the error that it raises; it is logged.
    """
    try:
        run = bus.serving = bus.make_server_run(lambda: bus.leaving)
        with run.interruptible(bus, server.callback):
            if not bus.leaving:
                server.call()
    except KeyboardInterrupt:
        pass
    except SystemExit as exited:
        keep_exit_code(exited)
    except Exception as error:
        bus.log(f"Error in 'start' listener {server.name}", 40, traceback=True)
        return error
    finally:
        bus.serving = None
    return None


def _hear(bus: Bus, signum: int) -> None:
    """Handle a signal here, because the main thread does not run its handler."""
    handle = getattr(bus.plugins.get('signals'), 'handle_elsewhere', None)
    if handle is not None:
        handle(signum)


def _stop_without_server(bus: Bus) -> NoReturn:
    """Exit the bus in this thread, and end the process, because the server does not return."""
    bus.log(
        'The server does not return when it is stopped: the process ends without waiting for it',
        40,
    )
    bus.serving, bus.turn.is_lent = None, False
    bus.turn.put('exit')
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        bus.turn.wait_until_free()
        bus.turn.run()
    bus.exit_code = EX_SOFTWARE
    if bus.end_process is not None:
        bus.end_process()
    os._exit(EX_SOFTWARE)

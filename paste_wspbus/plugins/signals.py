"""The signals of the operating system, and the channel or method of the bus for each."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from _thread import start_new_thread  # the original, before a site patches Python
from time import sleep
from traceback import format_exc

from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.deadlines import stacks
from paste_wspbus.bus.host import host_of, note_reason
from paste_wspbus.bus.interrupts import Interrupts, in_main_thread
from paste_wspbus.bus.places import is_debugger, is_of_this_package
from paste_wspbus.bus.states import State
from paste_wspbus.errors import WSPBusError, shortage
from paste_wspbus.exits import exit_code_of
from paste_wspbus.plugins.signal_names import BadSignal, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus

    Target = str | Callable[..., object] | None

#: Seconds after the deadline of a stop at which the process ends, if its main thread has
#: not begun with the stop.
MARGIN = 1.0

#: The default targets of signals. Windows does not have all of these signals.
DEFAULTS = {
    'SIGINT': 'exit',
    'SIGTERM': 'exit',
    'SIGBREAK': 'exit',  # Ctrl-Break, on Windows
    'SIGHUP': 'hangup',
    'SIGQUIT': 'stacks',
    'SIGUSR1': 'reopen_logs',
    'SIGUSR2': 'reopen_logs',
}

#: Seconds in which several signals to stop count as one. If a terminal and a launcher both
#: pass Ctrl-C on, they do it within milliseconds. A person who waits for the effect of the
#: first Ctrl-C does not press again so fast.
WINDOW = 0.5

#: The methods of the bus that a signal can name. Any other name is a channel.
_METHODS = frozenset({'exit', 'stop', 'restart', 'graceful', 'start'})

#: The modules that can install signal handlers written in C.
HANDLERS_IN_C = frozenset({'faulthandler', 'gevent', 'ctypes'})

#: The handlers of signals for which no code has set one.
_RESET = (signal.SIG_DFL, signal.default_int_handler)

#: The methods that a signal to stop calls.
_STOPS = ('exit', 'stop')

#: The original poll: that of gevent would let other greenlets run.
_make_poll = getattr(select, 'poll', None)


class Escalation:
    """Counts signals to stop: the first stops gracefully, the second hurries, the third forces.

    A signal within `WINDOW` seconds of the last one that counted does not count. In this
    case Ctrl-C prints a line, once, because a person waits for its effect.
    """

    def __init__(self) -> None:
        #: The number of signals that have counted.
        self.count = 0
        self._since = 0.0
        self._answered = False

    def counts(self, signum: int | None = None) -> bool:
        """Count a signal; return False if it belongs to the signal before it.

        :param signum: the signal; None if this must not print a line.
        """
        now = time.monotonic()
        if self.count and now - self._since < WINDOW:
            if signum == signal.SIGINT and not self._answered:
                self._answered = True
                write_to_stderr('stopping; press again to force\n')
            return False
        self.count, self._since = self.count + 1, now
        return True


def write_to_stderr(text: str) -> None:
    """Write at once, in a signal handler, without a lock that the interrupted code may hold.

    If nobody reads a pipe, the text is lost, or a part of it.
    """
    rest = text.encode('utf-8', 'backslashreplace')
    with contextlib.suppress(OSError, ValueError):
        if _make_poll is None:
            os.write(2, rest)
            return
        poll = _make_poll()
        poll.register(2, select.POLLOUT)
        while rest and poll.poll(100):
            # If poll(2) reports a pipe as writable, it has room for PIPE_BUF bytes.
            rest = rest[os.write(2, rest[: select.PIPE_BUF]) :]


class SignalHandler:
    """Handles signals as its table ``handlers`` says.

    The table has a channel or a method of the bus for each signal, such as
    {'SIGUSR1': 'reopen_logs'}. It may be changed before `subscribe`.

    'exit' and 'stop' escalate: the first signal stops gracefully, the second skips
    every wait, the third ends the process at once with exit code 70. `Escalation` says
    which signals count. 'hangup' means exit on a terminal, and restart elsewhere. 'stacks'
    logs the stacks of all threads. With None or 'ignore' the signal is ignored, also in
    programs that the site starts (as with nohup(1)). With 'none' only the site handles
    it. A function is subscribed to the channel of the signal's name, as by `set_handler`.
    The listeners of such a channel ('SIGUSR1') are called for each signal that is handled.

    :param handlers: entries that add to `DEFAULTS`, or replace them.
    :raises BadSignal: if a signal does not exist, or cannot be caught.
    """

    #: Whether this process decides about its stop: then the log says why.
    decides = True
    #: What a signal asks for that does not stop the site.
    wishes: Mapping[Target, str] = {
        'restart': 'a restart',
        'graceful': 'a graceful restart',
    }

    def __init__(self, bus: Bus, handlers: dict[str, Any] | None = None) -> None:
        self.bus = bus
        self.handlers: dict[str, Target] = {
            name: target for name, target in DEFAULTS.items() if hasattr(signal, name)
        }
        for name, target in (handlers or {}).items():
            self.handlers[signal_name(name)] = target
        self._owners = Owners({signal_name(name) for name in handlers or ()})
        self._previous: dict[int, Any] = {}
        #: The signals that this process has sent to itself, and the signals that another
        #: thread has handled: the handler in the main thread skips one of each.
        self._sent: set[int] = set()
        self._handled: set[int] = set()
        self._escalation = Escalation()
        #: Whether the bus was asked to stop: the site's own handler has returned.
        self._is_asked = False
        #: The signals for which the site's own handler was called.
        self._called: set[str] = set()
        self._terminal = False
        self._awaits_start = False
        self._stacks_at = 0.0
        #: The command of a signal that came before the start.
        self._noted: str | None = None

    @property
    def asked_to_leave(self) -> int:
        """The number of signals to stop or exit that have counted since `subscribe`."""
        return self._escalation.count

    def expect_start(self) -> None:
        """Note a signal to stop that comes before bus.start(): it then ends the start early.

        Call this before `subscribe` and bus.start().
        """
        self._awaits_start = True
        self.bus.subscribe('start', self._starts, priority=float('-inf'))
        self.bus.subscribe('start', self.look, priority=float('inf'))
        self.bus.waiting.after_command.append(self.look)

    def subscribe(self) -> None:
        """Install the handlers. Outside the main thread, only log that this is impossible.

        :raises BadSignal: if ``handlers`` names a signal that does not exist, or cannot
            be caught; then no handler is installed.
        """
        for given in list(self.handlers):
            name = signal_name(given)
            self.handlers[name] = self.handlers.pop(given)
        if not host_of(self.bus).owns_signals:
            self.bus.log(
                'Signals are not handled: the host of this process handles them.'
            )
        elif self._is_main_thread():
            self._escalation, self._called, self._is_asked = Escalation(), set(), False
            self._terminal = os.isatty(0)
            kept = [name for name in self.handlers if not self._install_or_leave(name)]
            self._warn_of_kept(kept)

    def unsubscribe(self) -> None:
        """Set the previous handlers of all signals again."""
        for name, target in self.handlers.items():
            if callable(target):
                self.bus.unsubscribe(name, target)
        if not self._previous or not self._is_main_thread('given back'):
            return
        for number, previous in self._previous.items():
            # None stands for a handler that C code installed; Python cannot set it again.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def set_handler(
        self, signal: str | int, listener: Callable[[], object] | None = None
    ) -> None:
        """Handle a signal from now on, and publish the channel of its name.

        If ``handlers`` has an entry for the signal, the entry stays, unless it is
        'ignore'.

        :param signal: its name or number.
        :param listener: is subscribed to the channel, unless it is None.
        :raises BadSignal: (a ValueError) if it does not exist, or cannot be caught.
        """
        name = signal_name(signal)
        self._owners.forget(name)
        if _is_ignored(self.handlers.get(name)):
            self.handlers[name] = name
        if self._is_main_thread():
            self._install(name)
        if listener is not None:
            self.bus.subscribe(name, listener)

    def know_the_site(self) -> None:
        """Note the handler of each signal before the site is loaded; see `look_at_the_site`."""
        self._owners.note_others()

    def look_at_the_site(self) -> None:
        """Note which signals the site has taken since `know_the_site`.

        The site's handlers of signals to stop are called first, and then the site stops.
        Only the site handles the other signals that it has taken, unless the caller gave
        entries for them in ``handlers``.
        """
        self._owners.note_the_site()

    def _install_or_leave(self, name: str) -> bool:
        """Install a handler; return False if the site keeps the signal."""
        target, owners = self.handlers[name], self._owners
        if target == 'none':
            owners.give_back(name)
            return True
        if owners.is_of_site(name) and target not in _STOPS:
            return False
        self._install(name)
        return True

    def _warn_of_kept(self, names: list[str]) -> None:
        if names:
            what = ', '.join(names)
            self.bus.log(
                f'The site handles {what} itself: wspserve leaves that to it '
                f'(signal.{names[0]} = {self.handlers[names[0]]} in [wspbus:main] takes it; '
                f'signal.{names[0]} = none leaves it without this line)',
                30,
            )

    def look(self) -> None:
        """Check whether code of the site has replaced handlers since they were installed.

        asyncio resets the handler of a signal when a loop ends. The thread in `block` calls
        this after each command, because listeners run there.
        """
        if not in_main_thread() or os.getpid() != self.bus.pid:
            return
        kept, lost = [], []
        for number in list(self._previous):
            name = signal.Signals(number).name
            target = self.handlers.get(name)
            wanted = signal.SIG_IGN if _is_ignored(target) else self.handle
            current = signal.getsignal(number)
            if current == wanted or is_of_this_package(current):
                continue
            if current in _RESET:
                lost.append(name)
            elif target not in _STOPS:
                kept.append(name)
                del self._previous[number]  # the site handles it now
                continue
            else:
                self._owners.takes(name, current)
            signal.signal(number, wanted)
        Interrupts.renew_all()
        self._warn_of_kept(kept)
        if lost:
            self.bus.log(
                f'{", ".join(lost)}: code of the site, such as asyncio, gave the signal '
                'back to the system; wspserve handles it again',
                30,
            )

    def _is_main_thread(self, wish: str = 'handled') -> bool:
        if in_main_thread():
            return True
        self.bus.log(f'Signals are not {wish}: this is not the main thread.')
        return False

    def _install(self, name: str) -> None:
        number, target = getattr(signal, name), self.handlers[name]
        handler = signal.SIG_IGN if _is_ignored(target) else self.handle
        try:
            previous = signal.signal(number, handler)
        except OSError:
            raise BadSignal(name, f'{name} cannot be caught') from None
        self._previous.setdefault(number, previous)
        if callable(target):
            self.bus.subscribe(name, target)

    #: Whether the process makes the requests of warm_up and smoke: it does not serve yet.
    rehearses = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Let the thread in block() obey a signal (this is a handler for `signal.signal`)."""
        if os.getpid() != self.bus.pid:
            _die_of(signum)
            return
        if signum in self._sent | self._handled:
            self._sent.discard(signum)
            self._handled.discard(signum)
            return
        self._handle(signum, frame)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        target = self.handlers.get(name)
        if target == 'hangup':
            target = self._meaning_of_hangup()
        # The site's own handler may hang: what ends the process then comes first.
        count = self._count(signum) if target in _STOPS else 0
        self._call_the_site(name, signum, frame)
        if count == 1 and self.decides:
            note_reason(self.bus, self._cause(name))
        elif target in self.wishes:
            self.bus.post('log', f'Asked for {self.wishes[target]}: {name}', 20)
        else:
            self.bus.post('log', f'Caught signal {name}.', 20)
        if self.bus.listeners.get(name):
            self.bus.post(name)
        # The channel with the name of the signal was published above.
        if isinstance(target, str) and target not in (name, 'none'):
            self._carry_out(target, signum, count)

    def _cause(self, name: str) -> str:
        # A handler in Python does not know the sender of the signal (siginfo_t).
        if name == 'SIGHUP' and self._terminal:
            return 'SIGHUP (the terminal was closed)'
        return f'{name} (Ctrl-C)' if name == 'SIGINT' and self._terminal else name

    def _meaning_of_hangup(self) -> str:
        # Without a terminal, it is not the end of a terminal: an operator has sent it.
        return 'exit' if self._terminal else 'restart'

    def expect(self, signum: int) -> None:
        """Ignore the next call of the handler: this process itself sends that signal."""
        self._sent.add(signum)

    def handle_elsewhere(self, signum: int) -> None:
        """Handle a signal in this thread, because the main thread does not run handlers.

        If the main thread runs the handler later, the signal is not handled a second time.
        """
        if signal.getsignal(signum) != self.handle:
            return
        if signum in self._sent:
            self._sent.discard(signum)
        else:
            self._handle(signum, None)
        self._handled.add(signum)

    def _call_the_site(self, name: str, signum: int, frame: FrameType | None) -> None:
        """Call the site's own handler, once; wspserve's handler runs next, after any error."""
        theirs = self._owners.of_site.get(name)
        if not callable(theirs) or self.handlers.get(name) not in _STOPS:
            return
        if name in self._called:  # this may have interrupted the handler, which hangs
            return
        self._called.add(name)
        try:
            theirs(signum, frame)
        except SystemExit as exited:
            self.bus.exit_code = self.bus.exit_code or exit_code_of(exited)
        except KeyboardInterrupt:
            pass
        except BaseException:  # such as asyncio's CancelledError
            text = f"Error in the site's handler of {name}\n{format_exc()}"
            self.bus.post('log', text, 40)

    def _carry_out(self, target: str, signum: int, count: int) -> None:
        bus = self.bus
        if target == 'restart' or (target == 'graceful' and hasattr(bus, 'supervisor')):
            bus.asked_by = f'signal {signal.Signals(signum).name}'
        try:
            self._obey(target, signum, count)
        except ChannelFailures:
            pass  # no thread is in block(), so this one ran it; the log has each error
        except Exception as error:  # it must not reach the main thread
            bus.restarting = False
            known = shortage(error) or error
            text = str(known) if isinstance(known, WSPBusError) else repr(error)
            bus.post('log', text, 40)
            if target == 'restart':
                bus.post('reload_failed', text)

    def _obey(self, target: str, signum: int, count: int) -> None:
        if target == 'stacks':
            self._show_stacks(signum)
        elif target in _STOPS:
            self._leave(target, count)
        elif target == 'restart':
            self._restart()
        elif target == 'graceful':
            self.ask_for_graceful()
        elif target in _METHODS:
            getattr(self.bus, target)()
        else:
            self.bus.post(target)

    def _restart(self) -> None:
        bus = self.bus
        if bus.is_told_to_leave and not bus.execv:
            bus.post('log', 'Not restarted: the site has been asked to stop.', 30)
        elif ask := getattr(bus, 'try_restart', None):
            ask()
        else:  # tell the listeners before anything stops
            if not host_of(bus).restarts:
                for check in list(getattr(bus, 'restart_checks', ())):
                    check()  # if it is refused, they must not hear of it
            bus.restarting = True
            bus.graceful()
            bus.restart()

    def ask_for_graceful(self) -> None:
        """Publish 'graceful'; if it is being published now, publish it once more afterwards."""
        if self.bus.command == 'graceful':
            # bus.graceful() would do nothing here, as if a listener called it.
            self.bus.turn.put('graceful')
        else:
            self.bus.graceful()

    def _show_stacks(self, signum: int) -> None:
        """Log the stacks of all threads; only once if several programs send the signal."""
        now = time.monotonic()
        if now - self._stacks_at >= WINDOW:
            self._stacks_at = now
            self.show_stacks(signal.Signals(signum).name)

    def show_stacks(self, name: str) -> None:
        """Log the stacks in another thread: this one may hang, or hold a lock of the log.

        :param name: the signal that has asked for it.
        """
        try:
            start_new_thread(_log_stacks, (self.bus,))
        except RuntimeError:  # the system starts no more threads
            self.bus.post('log', f'Stacks of process {os.getpid()}:\n{stacks()}', 30)

    def _count(self, signum: int) -> int:
        """Return which signal to stop this is: 1 for the first, 0 if it does not count."""
        if not self._escalation.counts(signum):
            return 0
        if self.asked_to_leave == 1:
            self._limit_the_wait()
        return self.asked_to_leave

    def _leave(self, command: str, count: int) -> None:
        self.bus.execv = False  # a signal to stop cancels a restart
        if count == 1:
            self._is_asked = True
            self._ask(command)
        elif count == 2:
            self.bus.hurry()
        elif count:
            self.bus.force_exit('Asked to stop three times')

    def _ask(self, command: str) -> None:
        """Stop the bus; before the start, only note the command: else the site would start."""
        if self._awaits_start:
            self._noted = command
        else:
            getattr(self.bus, command)()

    def _starts(self) -> None:
        # The order matters: a signal in between finds that the bus starts, and ends that.
        self._awaits_start = False
        noted, self._noted = self._noted, None
        if noted is not None:
            getattr(self.bus, noted)()

    def _limit_the_wait(self) -> None:
        """End the process if its main thread hangs, so that the stop does not begin."""
        bus, limit = self.bus, self.bus.stop_timeout
        if limit is None or hasattr(bus, 'events'):  # a supervisor's loop does not hang
            return
        seconds = limit + MARGIN

        def insist() -> None:
            until = time.monotonic() + seconds
            while bus.state is State.STARTED and time.monotonic() < until:
                sleep(0.5)
            is_to_leave = bus.is_told_to_leave or not self._is_asked
            if bus.state is State.STARTED and is_to_leave:
                bus.force_exit(f'The stop has not begun within {seconds:g} s')

        # Not a Thread, whose start() takes locks. The system may start no more threads.
        with contextlib.suppress(RuntimeError):
            start_new_thread(insist, ())


class Owners:
    """The owner of each signal: the signals that the site took while it was loaded.

    :param explicit: the signals that the .ini names: the site does not own these.
    """

    def __init__(self, explicit: set[str]) -> None:
        self._explicit = explicit
        #: The site's own handler of each signal that it took; None for a handler in C.
        self.of_site: dict[str, Any] = {}
        self._before: dict[signal.Signals, Any] = {}

    def is_of_site(self, name: str) -> bool:
        """Whether the site took the signal, and the .ini does not name it."""
        return name in self.of_site and name not in self._explicit

    def forget(self, name: str) -> None:
        """Note that the site does not own a signal any more, because it asked for that."""
        self.of_site.pop(name, None)

    def takes(self, name: str, handler: Any) -> None:
        """Note the site's own handler of a signal; that of pdb is none, and does not stay."""
        if not is_debugger(getattr(handler, '__self__', None)):
            self.of_site[name] = handler

    def note_others(self) -> None:
        """Note the handler of each signal before the site is loaded."""
        known = signal.valid_signals()  # Windows' Signals has events, too
        self._before = {
            one: signal.getsignal(one) for one in signal.Signals if one in known
        }

    def note_the_site(self) -> None:
        """Note the handlers that have changed since `note_others`."""
        in_c: set[int] = set()
        if HANDLERS_IN_C & sys.modules.keys():
            from paste_wspbus.plugins.handlers_in_c import handled_in_c

            in_c = handled_in_c(self._before)
        for number, before in self._before.items():
            now = signal.getsignal(number)
            if number in in_c:
                self.of_site[number.name] = None
            elif now != before and now not in _RESET:
                self.takes(number.name, now)

    def give_back(self, name: str) -> None:
        """Let the site handle a signal; if it has no handler, reset the signal."""
        number = signal.Signals[name]
        before = self._before.get(number)
        is_ours = callable(before) and signal.getsignal(number) == before
        if is_ours and name not in self.of_site:
            signal.signal(number, signal.SIG_DFL)


def _log_stacks(bus: Bus) -> None:
    # Not imported in a handler: it may have interrupted another import.
    from paste_wspbus.bus.threads import log_stacks

    log_stacks(bus)


def _is_ignored(target: Target) -> bool:
    return target in (None, '', 'ignore')


def _die_of(signum: int) -> None:
    """End a forked child as the signal does without a handler: its parent has the bus."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)

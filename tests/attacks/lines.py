"""An exception before each line of the bus that a command runs: ``python -m tests.attacks.lines``.

A signal handler can raise an exception between any two lines of the main thread: Python's own
handler of SIGINT raises KeyboardInterrupt, and many a handler of SIGTERM raises SystemExit. A
MemoryError can come from any line that makes an object. So a tracer raises each of them before
each line of `paste_wspbus/bus/` that the calling thread runs in a command, once in each try.
Afterwards

- the call has returned, or has raised that exception (or ChannelFailures that have it);
- the bus is STOPPED, STARTED or EXITING, and the turn and all other locks are free;
- no timer ends the process later, and signals wake nobody up any more;
- another exit() works, and each context that was entered was left once;
- no 'stop' or 'exit' listener was called twice, and none was left out.

The tracer raises also where a handler cannot: CPython runs handlers after calls, at the
beginning of functions, and at jumps backward, and not before each line. It raises nothing where
that would prove nothing: before ``try:``, and at the end of a ``with`` block, before the call of
``__exit__`` (`passed_over`).
"""

import argparse
import dis
import functools
import gc
import itertools
import signal
import sys
import threading
from pathlib import Path

import paste_wspbus.bus
from paste_wspbus.bus import Bus, ChannelFailures, State, ending, held_gil
from tests.kit import TIMEOUT

FOLDER = str(Path(paste_wspbus.bus.__file__).parent)


class Keyboard:
    """Ctrl-C, with Python's own handler."""

    expected = (KeyboardInterrupt,)

    @staticmethod
    def come():
        raise KeyboardInterrupt


class Terminated:
    """A SIGTERM, with a handler that calls sys.exit()."""

    expected = (SystemExit,)

    @staticmethod
    def come():
        def leave(signum, frame):
            sys.exit(3)

        previous = signal.signal(signal.SIGTERM, leave)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, previous)


class NoMemory:
    """An object that cannot be made."""

    expected = (MemoryError, ChannelFailures)

    @staticmethod
    def come():
        raise MemoryError


KINDS = (Keyboard, Terminated, NoMemory)


# -- the tracer ----------------------------------------------------------------------------


@functools.cache
def passed_over(code):
    """Return the offsets of the lines at which nothing can be raised.

    These are the ends of ``with`` blocks without an error, and the lines that do nothing,
    such as ``try:``.
    """
    steps = {one.offset: one for one in dis.get_instructions(code)}
    following = dict(itertools.pairwise(steps))
    found = set()
    for offset in steps:
        at = offset
        while steps[at].opname in ('NOP', 'JUMP_FORWARD'):
            step = steps[at]
            at = following[at] if step.opname == 'NOP' else step.argval
        nones = []
        while steps[at].opname == 'LOAD_CONST' and steps[at].argval is None:
            nones.append(at)
            at = following[at]
        if len(nones) == 3 or steps[offset].opname == 'NOP':  # arguments of __exit__
            found.add(offset)
    return found


class At:
    """Raises what ``kind`` has before the nth line that this thread runs inside.

    ``place`` is that line; None if there were fewer lines.
    """

    def __init__(self, number, kind):
        self.left, self.kind, self.place = number, kind, None
        self.thread = threading.get_ident()

    def reach(self, frame):
        if frame.f_lasti in passed_over(frame.f_code):
            return
        self.left -= 1
        if self.left == 0:
            name = Path(frame.f_code.co_filename).name
            self.place = f'{name}:{frame.f_lineno}, in {frame.f_code.co_qualname}'
            self.__exit__()
            self.kind.come()


class Traced(At):
    """It uses sys.settrace: for Python 3.11."""

    def __enter__(self):
        self.previous = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.previous)

    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == 'line':
            self.reach(frame)
        return self.trace


class Monitored(At):
    """It uses sys.monitoring (PEP 669)."""

    TOOL = 4

    def __enter__(self):
        monitoring = sys.monitoring
        monitoring.use_tool_id(self.TOOL, 'lines')
        monitoring.register_callback(self.TOOL, monitoring.events.LINE, self.line)
        monitoring.set_events(self.TOOL, monitoring.events.LINE)
        return self

    def __exit__(self, *_):
        monitoring = sys.monitoring
        if monitoring.get_tool(self.TOOL) is not None:
            monitoring.set_events(self.TOOL, 0)
            monitoring.register_callback(self.TOOL, monitoring.events.LINE, None)
            monitoring.free_tool_id(self.TOOL)

    def line(self, code, number):
        if not code.co_filename.startswith(FOLDER):
            return sys.monitoring.DISABLE
        if threading.get_ident() == self.thread:
            self.reach(sys._getframe(1))
        return None


tracer = Monitored if hasattr(sys, 'monitoring') else Traced


# -- the site ------------------------------------------------------------------------------


# The parts of the site note what happens without a call: in a call of ``append``, a signal
# handler could come between the note and the end of the part.


class Context:
    """A context manager that is no generator."""

    def __init__(self, site):
        self.site = site

    def __enter__(self):
        self.site.entered += ['context']

    def __exit__(self, *_):
        self.site.left += ['context']


class Plugin:
    """An object that notes which of its methods the bus has called."""

    def __init__(self, bus):
        self.calls = []
        for channel in ('start', 'drain', 'stop', 'exit', 'graceful'):
            bus.subscribe(channel, getattr(self, channel))

    def start(self):
        self.calls += ['start']

    def drain(self):
        self.calls += ['drain']

    def stop(self):
        self.calls += ['stop']

    def exit(self):
        self.calls += ['exit']

    def graceful(self):
        self.calls += ['graceful']


class Site:
    """A bus with two lifespans, two context managers and a plugin; what was entered and left.

    The lock is a context manager that is written in C.
    """

    def __init__(self):
        self.bus = bus = Bus()
        self.entered, self.left, self.forced = [], [], []
        bus.subscribe('log', lambda message, level: None)
        bus.subscribe('restart', lambda: None)
        self.add('first', 10)
        bus.enter(Context(self), priority=20, name='context')
        self.lock = threading.Lock()
        bus.enter(self.lock, priority=25, name='lock')
        self.add('second', 30, timeout=600)
        self.plugin = Plugin(bus)
        bus.stop_timeout, bus.join_timeout = 600, 0
        bus.force_exit = self.forced.append

    def add(self, name, priority, timeout=None):
        def lifespan():
            self.entered += [name]
            try:
                yield name
            finally:
                self.left += [name]

        self.bus.lifespan(lifespan, priority=priority, name=name, timeout=timeout)

    @property
    def open(self):
        """The names of what is entered now."""
        locked = {'lock'} if self.lock.locked() else set()
        return (set(self.entered) - set(self.left)) | locked


def start(bus):
    bus.start()


def failing_start(bus):
    bus.subscribe('start', lambda: [][0], priority=90)
    try:
        bus.start()
    except ChannelFailures:
        assert bus.state is State.STOPPED


def start_that_is_left(bus):
    bus.subscribe('start', bus.exit, priority=40)
    bus.start()


def stop(bus):
    bus.stop()


def leave(bus):
    bus.exit()


def restart(bus):
    bus.restart()


def graceful(bus):
    bus.graceful()


def block(bus):
    bus.subscribe('main', bus.exit)
    bus.block(interval=0)


def block_until_restart(bus):
    bus.subscribe('main', bus.restart)
    bus.block(interval=0)


def block_until_stopped(bus):
    bus.subscribe('main', bus.stop)
    bus.block(interval=0, states=State.STOPPED)


#: What is done to a bus that is not started, and to one that is.
FRESH = (start, failing_start, start_that_is_left)
STARTED = (
    stop,
    leave,
    restart,
    graceful,
    block,
    block_until_restart,
    block_until_stopped,
)


# -- one try -------------------------------------------------------------------------------


def try_once(command, kind, number, tracer=tracer):
    """Raise before the nth line; return the line (None: there is none), and what is wrong."""
    site, wrong = Site(), []
    if command in STARTED:
        site.bus.start()
    at = tracer(number, kind)
    try:
        with at:
            command(site.bus)
    except BaseException as error:
        if not isinstance(error, kind.expected):
            wrong.append(f'it raised {error!r}')
    if at.place is None:
        site.bus.exit()
        return None, []
    wrong += wrong_with_locks(site) + wrong_with_state(site)
    try:
        site.bus.exit()
    except BaseException as raised:
        wrong.append(f'exit() raised {raised!r}')
    wrong += wrong_at_end(site) + wrong_with_timers(site) + wrong_with_signals()
    return at.place, wrong


def wrong_with_locks(site):
    bus, turn = site.bus, site.bus.turn
    locks = [bus._new_channel, bus.draining._cond._lock]
    locks += [bus.channel(name)._lock for name in bus.listeners]
    for lifespan in bus.lifespans.values():
        locks += [lifespan._lock, lifespan._entering]
    wrong = [f'{lock} is held' for lock in locks if lock._is_owned()]
    free = []
    thread = threading.Thread(
        target=lambda: free.append(turn.hold(lambda: True, wait=False)), daemon=True
    )
    thread.start()
    thread.join(TIMEOUT)
    if free != [True] or turn.owner or turn.current or turn.is_lent:
        wrong.append('the turn is not free')
    if len(turn.leaving) > turn.commands.qsize():
        gc.collect()  # the frames in a traceback have commands
        if len(turn.leaving) > turn.commands.qsize():
            wrong.append('a command that nobody has seems to be queued')
    return wrong


def wrong_with_state(site):
    state, entered = site.bus.state, site.open
    if state is State.STARTED:
        right = entered == set(site.bus.resources)
    else:
        right = state in (State.STOPPED, State.EXITING) and not entered
    return [] if right else [f'it is {state}, and {entered} are entered']


def wrong_at_end(site):
    bus, calls, wrong = site.bus, site.plugin.calls, []
    if bus.state is not State.EXITING or bus in ending._running:
        wrong.append(f'after exit() it is {bus.state}')
        ending.forget(bus)
    if sorted(site.entered) != sorted(site.left) or bus.resources or site.open:
        wrong.append(f'{site.entered} were entered, {site.left} left, {site.open} not')
    wrong += [
        f'{name!r} came twice' for name in ('stop', 'exit') if calls.count(name) > 1
    ]
    if 'exit' not in calls or ('start' in calls and 'stop' not in calls):
        wrong.append(f'the plugin was called for {calls}')
    return wrong


def wrong_with_timers(site):
    wrong = []
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and not thread.finished.is_set():
            thread.function()
            thread.cancel()
    if site.forced or held_gil._until is not None:
        wrong.append('a timer ends the process later')
        held_gil._cancel()
    if site.bus.deadline._cancels is not None:
        wrong.append('the next stop has no deadline')
    return wrong


def wrong_with_signals():
    descriptor, handler = signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGURG)
    signal.signal(signal.SIGURG, signal.SIG_DFL)
    wrong = []
    if descriptor != -1 or handler is not signal.SIG_DFL:
        wrong.append('signals wake up a thread that is not in block()')
    alarm = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if alarm is not signal.SIG_DFL or signal.setitimer(signal.ITIMER_REAL, 0)[0]:
        wrong.append('a listener is cut later')
    return wrong


def attack(command, kind, first=1, every=1, tracer=tracer):
    """Raise before each line, or before each ``every``-th one from the ``first`` on.

    :returns: the number of tries, and what was wrong, as lines of text.
    """
    tries, wrong, number = 0, [], first
    while True:
        place, found = try_once(command, kind, number, tracer)
        if place is None:
            return tries, wrong
        tries += 1
        wrong += [
            f'{command.__name__}, {kind.__name__} at {number} ({place}): {one}'
            for one in found
        ]
        number += every


def main(doc=__doc__, kinds=KINDS, tracer=tracer, what='exceptions'):
    """Try each command with each kind, as the command line says; return whether any did harm.

    :param what: what comes: 'exceptions', or 'signals'.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument('--every', type=int, default=1, help='not at each place')
    parser.add_argument('--only', help='the name of a command, such as start')
    options = parser.parse_args()
    total, failed = 0, False
    for command in (*FRESH, *STARTED):
        if options.only not in (None, command.__name__):
            continue
        for number, kind in enumerate(kinds):
            first = 1 + number * options.every // len(kinds)
            tries, wrong = attack(command, kind, first, options.every, tracer)
            total, failed = total + tries, failed or bool(wrong)
            line = f'{command.__name__}: {kind.__name__}, {tries} {what}'
            print(line, *wrong, sep='\n', flush=True)
    print(f'{total} {what}, {"some" if failed else "none"} of which did harm')
    return failed


if __name__ == '__main__':
    sys.exit(main())

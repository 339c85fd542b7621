"""A signal at each moment at which Python handles it: ``python -m tests.attacks.moments``.

Python notes a signal when it comes, and runs the handler later: at the beginning of a function
or of the next part of a generator, after the call of a function written in C, and at a jump
backward. So just before each such instruction that the calling thread runs in a command, also
in contextlib, threading and the listeners, a signal is noted, once in each try. Python itself
runs the handler, which raises KeyboardInterrupt or SystemExit. Afterwards must hold what
`tests.attacks.lines` says.

A tracer that sent the signal would handle it itself. So the tracer makes a `Fuse`, whose last
reference ends when the tracer returns.
"""

import _thread
import dis
import functools
import gc
import signal
import sys
import threading
import weakref
from pathlib import Path

from tests.attacks.lines import main


class Keyboard:
    """Ctrl-C, with Python's own handler."""

    expected = (KeyboardInterrupt,)
    signum = signal.SIGINT
    handler = staticmethod(signal.default_int_handler)


class Terminated:
    """A SIGTERM, with a handler that calls sys.exit()."""

    expected = (SystemExit,)
    signum = signal.SIGTERM

    @staticmethod
    def handler(signum, frame):
        sys.exit(3)


KINDS = (Keyboard, Terminated)


class Fuse:
    """An object that notes a signal when its last reference ends.

    The callback of its weak reference is written in C: so it runs no handler.
    """

    _references = []

    def __init__(self, signum):
        note = functools.partial(next, map(_thread.interrupt_main, [signum]))
        self._references[:] = [weakref.ref(self, note)]


@functools.cache
def moments_of(code):
    """Return the offsets of the instructions at which Python may run a handler.

    Python 3.14 also runs one between the ``__enter__`` of a ``with`` and its block, and then
    calls no ``__exit__`` (cpython#148874). No ``with`` of any program is safe from that: so
    this call is left out.
    """
    names = ('CALL', 'RESUME', 'JUMP_BACKWARD', 'EXTENDED_ARG')
    enter, offsets = ('LOAD_SPECIAL', '__enter__'), []
    before = None
    for one in dis.get_instructions(code):
        runs = one.opname.startswith(names) and 'INTRINSIC' not in one.opname
        if runs and before != enter:
            offsets.append(one.offset)
        before = one.opname, one.argrepr
    return frozenset(offsets)


class At:
    """Lets a signal come before the nth instruction at which Python may run its handler.

    ``place`` is that instruction; None if there were fewer.
    """

    def __init__(self, number, kind):
        self.left, self.kind, self.place = number, kind, None
        self.thread = threading.get_ident()
        self.handler = kind.handler

    def __enter__(self):
        self.previous = signal.signal(self.kind.signum, self.handler)
        gc.disable()
        self.begin()
        return self

    def __exit__(self, *_):
        self.end()
        gc.enable()

    def reach(self, code, offset, line):
        """Return the fuse if this is the moment; the caller must drop it last."""
        if offset not in moments_of(code):
            return None
        self.left -= 1
        if self.left != 0:
            return None
        self.end()
        self.place = f'{Path(code.co_filename).name}:{line}, in {code.co_qualname}'
        return Fuse(self.kind.signum)


class Traced(At):
    """It uses sys.settrace: for Python 3.11."""

    def begin(self):
        sys.settrace(self.trace)

    def end(self):
        sys.settrace(None)

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == 'opcode':
            fuse = self.reach(frame.f_code, frame.f_lasti, frame.f_lineno)  # noqa: F841
        return self.trace


class Monitored(At):
    """It uses sys.monitoring (PEP 669)."""

    TOOL = 4

    def begin(self):
        monitoring = sys.monitoring
        event = monitoring.events.INSTRUCTION
        monitoring.use_tool_id(self.TOOL, 'moments')
        monitoring.register_callback(self.TOOL, event, self.instruction)
        monitoring.set_events(self.TOOL, event)

    def end(self):
        monitoring = sys.monitoring
        if monitoring.get_tool(self.TOOL) is not None:
            monitoring.set_events(self.TOOL, 0)
            event = monitoring.events.INSTRUCTION
            monitoring.register_callback(self.TOOL, event, None)
            monitoring.free_tool_id(self.TOOL)

    def instruction(self, code, offset):
        if code.co_filename == __file__:
            return sys.monitoring.DISABLE
        if threading.get_ident() == self.thread:
            line = sys._getframe(1).f_lineno
            fuse = self.reach(code, offset, line)  # noqa: F841
        return None


tracer = Monitored if hasattr(sys, 'monitoring') else Traced


if __name__ == '__main__':
    sys.exit(main(__doc__, KINDS, tracer, 'signals'))

"""Debuggers: a stop does not wait at their prompts, and the terminal is restored after them."""

from __future__ import annotations

import atexit
import os
import sys

from paste_wspbus.bus import State
from paste_wspbus.bus.places import is_at_prompt, place_in_site
from paste_wspbus.unix.tty import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


def hurry_past_prompts(bus: Bus) -> None:
    """Skip the waits of a stop if a debugger waits at its prompt: nobody will answer it."""
    if bus.state is not State.STARTED or bus.hurried:
        return
    for frame in sys._current_frames().values():
        if is_at_prompt(frame):
            place = place_in_site(frame)
            bus.log(f'A debugger waits at its prompt, at {place}: it is ended', 30)
            bus.hurry()
            return


def restore_terminal_at_exit() -> None:
    """Restore the mode of the terminal when this process ends, or becomes another program.

    A debugger leaves it without echo if it is ended at its prompt.
    """
    terminal, pid = Terminal(), os.getpid()

    def restore() -> None:
        if os.getpid() == pid:  # not in a worker, which was forked later
            terminal.restore()

    atexit.register(restore)

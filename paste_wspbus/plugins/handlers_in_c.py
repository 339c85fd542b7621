"""The signal handlers that a library in C has installed, which Python does not know."""

from __future__ import annotations

import os
import signal
import sys

from paste_wspbus.plugins.signals import HANDLERS_IN_C

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def handled_in_c(numbers: Iterable[int]) -> set[int]:
    """Return the signals for which Python has a handler that the system does not call.

    `faulthandler.register`, gevent and others install a function written in C.
    `signal.getsignal` does not know it, but sigaction(2) does. This calls sigaction(2)
    only if such a module is imported, because the call takes milliseconds.
    """
    if not HANDLERS_IN_C & sys.modules.keys() or os.name == 'nt':
        return set()
    try:
        import ctypes

        sigaction = ctypes.CDLL(None).sigaction
    except (ImportError, OSError, AttributeError):
        return set()
    addresses: dict[int, int] = {}
    for number in numbers:
        if callable(signal.getsignal(number)):
            # This is larger than the struct sigaction of any system. The struct begins
            # with the address.
            buffer = (ctypes.c_size_t * 64)()
            if sigaction(int(number), None, ctypes.byref(buffer)) == 0:
                addresses[number] = buffer[0]
    found = list(addresses.values())
    python = max(found, key=found.count, default=0)
    return {number for number, address in addresses.items() if address != python}

"""A worker names the debugger that may stop its threads."""

import sys
import threading
from types import ModuleType

from paste_wspbus.workers.orders import _debugger


def test_without_a_debugger_none_is_named(monkeypatch):
    monkeypatch.setattr(sys, '_current_frames', dict)  # coverage may trace the tests
    monkeypatch.setattr(threading, 'gettrace', lambda: None)
    assert _debugger() == ''


def test_the_debugger_of_an_editor_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydevd', ModuleType('pydevd'))
    assert _debugger() == 'pydevd'


def test_a_thread_that_is_traced_is_seen():
    begun, over = threading.Event(), threading.Event()

    def trace(*_):
        return trace

    def run():
        sys.settrace(trace)
        wait()

    def wait():
        begun.set()
        for _ in range(10**6):  # its frame is traced, and not inside wait()
            if over.is_set():
                break

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    seen = {_debugger() for _ in range(100)}
    over.set()
    thread.join()
    assert 'sys.settrace' in seen


if sys.version_info >= (3, 12):  # sys.monitoring is new there

    def test_a_debugger_of_sys_monitoring_is_named():
        sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, 'debug-it')
        try:
            assert _debugger() == 'sys.monitoring: debug-it'
        finally:
            sys.monitoring.free_tool_id(sys.monitoring.DEBUGGER_ID)

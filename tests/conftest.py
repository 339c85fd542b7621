import os
import signal

import pytest

if hasattr(signal, 'SIGHUP'):
    # Under nohup it is ignored, in programs that the tests start, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get('CI') and terminalreporter.stats.get('skipped'):
        terminalreporter.write_line('CI installs all it needs: nothing may be skipped')


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if os.environ.get('CI') and reporter and reporter.stats.get('skipped'):
        session.exitstatus = 1

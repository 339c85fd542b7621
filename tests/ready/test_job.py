"""ready/job.py: one run of a job, and what ends it."""

import contextlib
import sys
import threading
import time

import pytest

from paste_wspbus.ready.job import JobTimedOut, Run
from paste_wspbus.ready.part import Part
from tests.kit.processes import TIMEOUT, eventually


@pytest.fixture
def job(bus):
    return Part(bus, 'nightly')


def run_of(job, function, timeout=None):
    run = Run(job, function, 60, timeout)
    run.begin()
    run.wait()
    assert not run.is_running
    return run


def test_a_run_says_when_it_began_and_ended(job):
    run = run_of(job, lambda: None)
    described = run.describe()
    assert described['for'] == 60
    assert described['outcome'] == 'ok'
    assert described['error'] == ''
    assert time.time() - 60 < described['began'] <= described['ended']
    assert described['ended'] < time.time() + 0.01  # it is rounded


@pytest.mark.parametrize('seconds', [3600, -3600])
def test_a_clock_that_is_set_during_a_run_does_not_change_how_long_it_took(
    job, monkeypatch, seconds
):
    now = time.time
    run = run_of(
        job, lambda: monkeypatch.setattr(time, 'time', lambda: now() + seconds)
    )
    assert 0 <= run.ended - run.began < 60
    assert 0 <= run.age < 60


def test_a_job_that_raises_has_its_traceback_in_the_log(job, log):
    def fails():
        raise ValueError('no disk\nat all')

    run = run_of(job, fails)
    assert (run.outcome, run.error) == ('failed', 'ValueError: no disk')
    assert log[0].startswith('[nightly] The run failed:\nTraceback ')
    assert 'in fails' in log[0] and len(log) == 1


def test_a_job_that_calls_exit_ends_its_run_only(job, log):
    run = run_of(job, lambda: sys.exit(3))
    assert run.outcome == 'failed'
    assert run.error.startswith('it called sys.exit(3), at ')
    assert log == [f'[nightly] The run failed: {run.error}']


def test_a_keyboard_interrupt_in_a_job_is_a_failure(job, log):
    def interrupted():
        raise KeyboardInterrupt

    assert run_of(job, interrupted).outcome == 'failed'


def test_a_job_that_takes_too_long_is_ended_at_its_next_step(job, log):
    def hangs():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    run = run_of(job, hangs, timeout=0.05)
    assert (run.outcome, run.error) == ('timed out', 'it took longer than 0.05 s')
    assert run.is_late
    assert 'in hangs' in log[0]
    assert log[1:] == ['[nightly] The run was ended: it took longer than 0.05 s']


def test_a_job_that_waits_in_c_is_shown_as_late_until_it_returns(job, log):
    returns = threading.Event()
    lock = threading.Lock()
    lock.acquire()
    run = Run(job, lambda: (lock.acquire(), returns.wait(TIMEOUT)), 60, 0.05)
    run.begin()
    eventually(lambda: log)
    assert run.is_running and run.is_late
    lock.release()
    returns.set()
    run.wait()
    assert run.outcome == 'timed out'


def test_the_timeout_of_a_run_that_has_ended_does_nothing(job, log):
    run = run_of(job, lambda: None, timeout=0.2)
    run._cut()
    assert run.outcome == 'ok' and log == []


def test_the_error_in_the_middle_of_the_end_of_a_run_is_kept(job, log):
    def ends_late():
        raise JobTimedOut

    assert run_of(job, ends_late, timeout=9).outcome == 'timed out'


def test_a_run_that_gets_no_thread_has_failed(job, log, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, 'start', start)
    run = run_of(job, lambda: None)
    assert run.outcome == 'failed' and "can't start new thread" in run.error

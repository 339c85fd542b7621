"""The guard: it and its job end at the end of a lease, whatever either of them does."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.kit import TIMEOUT, eventually
from tests.kit.processes import has_ended

#: A program that stands in for the supervisor: it forks a guard, whose job runs ``job``, and
#: says the ids of both. Its input has the seconds of each renewal; its end is its own.
PROGRAM = """
import os, select, signal, socket, subprocess, sys, threading, time
from paste_wspbus.cluster.claim import Held
from paste_wspbus.cluster.lease import Lease, Watch
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.workers.guard import stand_guard
mine, its = socket.socketpair()
ttl = 1.0
held = Held(7, boot_clock() + ttl)
guard = os.fork()
if not guard:
    mine.close()
    fd = stand_guard(its, held, ttl)
    lease = Lease(fd)
    print(os.getpid(), os.getppid(), os.getpgid(0), lease.fence, flush=True)
    {job}
    os._exit(0)
its.close()
for line in sys.stdin:
    mine.send(f'{{boot_clock() + float(line)}}\\n'.encode())
_, status = os.waitpid(guard, 0)
print('guard', os.waitstatus_to_exitcode(status), flush=True)
"""


class Guarded:
    def __init__(self, job):
        code = PROGRAM.format(job=textwrap.indent(textwrap.dedent(job), '    ').strip())
        pipe = subprocess.PIPE
        words = [sys.executable, '-c', code]
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        words = map(int, self.process.stdout.readline().split())
        self.job, self.guard, self.group, self.fence = words

    def renew(self, seconds):
        self.process.stdin.write(f'{seconds}\n')
        self.process.stdin.flush()

    def end(self):
        """Say nothing more; return what the job said, and how the guard has ended."""
        out, _ = self.process.communicate(timeout=TIMEOUT)
        *said, last = out.splitlines()
        return said, int(last.split()[1])


@pytest.fixture
def guarded():
    made = []

    def make(job):
        made.append(Guarded(job))
        return made[-1]

    yield make
    for one in made:
        for pid in (one.guard, one.job):
            if not has_ended(pid):
                os.kill(pid, signal.SIGKILL)
        one.process.kill()
        one.process.communicate()


HOGS = {
    'sleeps': 'time.sleep(1000)',
    'holds the GIL': 'sum(1 for _ in iter(int, 1))',
    'is stopped': 'os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)',
    'stops its guard': 'os.kill(os.getppid(), signal.SIGSTOP); time.sleep(1000)',
    'ignores signals': """
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(1000)
    """,
}


@pytest.mark.parametrize('case', HOGS)
def test_both_end_with_the_lease(guarded, case):
    one = guarded(HOGS[case])
    assert one.group == one.job
    assert one.fence == 7
    _, code = one.end()
    assert code == -signal.SIGKILL
    eventually(lambda: has_ended(one.job))


def test_a_renewal_gives_both_more_time(guarded):
    one = guarded("""
        before = lease.remaining
        print('begun', flush=True)
        while lease.remaining < 2:
            time.sleep(0.01)
        print(before <= 1 and lease.remaining <= 3, flush=True)
        time.sleep(1000)
    """)
    assert one.process.stdout.readline() == 'begun\n'
    one.renew(3)
    assert one.process.stdout.readline() == 'True\n'
    one.renew(0)
    assert one.end() == ([], -signal.SIGKILL)


@pytest.mark.parametrize('who', ['job', 'guard'])
def test_one_does_not_outlive_the_other(guarded, who):
    one = guarded("""
        while lease.remaining < 100:
            time.sleep(0.01)
        print('more', flush=True)
        time.sleep(1000)
    """)
    one.renew(1000)
    assert one.process.stdout.readline() == 'more\n'
    os.kill(getattr(one, who), signal.SIGKILL)
    assert one.end()[1] == -signal.SIGKILL
    eventually(lambda: has_ended(one.job))


def test_the_guard_ends_as_its_job_has_ended_and_kills_its_group(guarded):
    one = guarded("""
        child = subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        os._exit(3)
    """)
    (child,), code = one.end()
    assert code == 3
    eventually(lambda: has_ended(int(child)))


def test_the_job_is_asked_to_stop_before_it_is_killed(guarded):
    one = guarded("""
        asked = threading.Event()
        Watch(lease, lambda remaining: asked.set()).start()
        asked.wait()
        print(0 < lease.remaining < 0.5, flush=True)
    """)
    assert one.end() == (['True'], 0)


def test_a_watch_that_is_ended_asks_nothing(guarded):
    one = guarded("""
        watch = Watch(lease, print)
        watch.start()
        watch.end()
        watch._thread.join()
    """)
    assert one.end() == ([], 0)

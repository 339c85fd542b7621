"""What the system says of a process: its state, its memory, the out-of-memory killer."""

import ctypes
import os
import resource
import signal

import pytest

from paste_wspbus.unix import processes
from paste_wspbus.unix.processes import (
    is_alive,
    is_stopped,
    memory_of,
    out_of_memory_kills,
    state_of,
    throttled_periods,
    tracer_of,
    used_up_descriptors,
    why_silent,
    why_stopped,
)
from tests.kit import Process, eventually
from tests.kit.processes import asleep, freeze, status_field

#: No process has this number (proc(5): pid_max is at most 2**22).
NOBODY = 2**22 + 1


def test_a_process_that_is_stopped_is_known_until_it_continues(tmp_path):
    with Process(['sleep', '60'], tmp_path) as process:
        assert not is_stopped(process.pid)
        freeze(process.pid)
        assert is_stopped(process.pid) and is_alive(process.pid)
        assert why_stopped(process.pid).startswith('a signal has stopped it; SIGCONT')
        process.send(signal.SIGCONT)
        eventually(lambda: not is_stopped(process.pid))


def test_a_process_whose_descriptors_are_used_up_is_known_with_its_limit(tmp_path):
    with Process(['sleep', '60'], tmp_path) as process:
        # It has opened and closed its libraries by then.
        eventually(lambda: asleep(process.pid))
        assert used_up_descriptors(process.pid) == 0 and why_silent(process.pid) == ''
        held = len(os.listdir(f'/proc/{process.pid}/fd'))
        for limit, known in ((held + 1, 0), (held, held), (1, 1)):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
            assert used_up_descriptors(process.pid) == known
        assert why_silent(process.pid) == (
            'it has no free descriptor (RLIMIT_NOFILE is 1); '
            f'`prlimit --pid {process.pid} --nofile=NUMBER` sets another limit'
        )
        freeze(process.pid)
        assert why_silent(process.pid).startswith('a signal has stopped it')
    assert used_up_descriptors(NOBODY) == 0


def test_the_memory_is_the_resident_set():
    kilobytes = int(status_field(os.getpid(), 'VmRSS').split()[0])
    assert kilobytes * 512 < memory_of(os.getpid()) < kilobytes * 2048


def test_a_zombie_has_no_memory():
    pid = os.fork()
    if not pid:
        os._exit(0)
    eventually(lambda: state_of(pid) == 'Z')
    assert memory_of(pid) is None and not is_alive(pid)
    os.waitpid(pid, 0)


def test_of_nobody_nothing_is_known():
    assert (state_of(NOBODY), memory_of(NOBODY), is_stopped(NOBODY)) == (
        '',
        None,
        False,
    )


def test_the_kills_are_counted_where_the_system_counts_them(tmp_path, monkeypatch):
    counted = out_of_memory_kills()
    assert counted is None or counted >= 0
    texts = {'cgroup': '0::/x\n', 'vmstat': 'nr_free 1\noom_kill 3\n'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    def fake(path, *args):
        return open(tmp_path / os.path.basename(path), *args)

    monkeypatch.setattr(processes, 'open', fake, raising=False)
    assert out_of_memory_kills() == 3
    (tmp_path / 'cgroup').write_text('4:cpu,memory:/x\n0::/x\n')
    (tmp_path / 'memory.oom_control').write_text('under_oom 0\noom_kill 5\n')
    assert out_of_memory_kills() == 5  # version 1
    (tmp_path / 'cgroup').write_text('0::/x\n')
    (tmp_path / 'memory.events').write_text('oom 9\noom_kill 7\n')
    assert out_of_memory_kills() == 7
    (tmp_path / 'memory.events').unlink()
    (tmp_path / 'vmstat').write_text('oom_kill many\n')
    assert out_of_memory_kills() is None
    (tmp_path / 'vmstat').unlink()
    assert out_of_memory_kills() is None


def test_the_process_that_traces_another_one_is_named():
    assert tracer_of(os.getpid()) == 0
    assert tracer_of(1 << 30) is None


def test_a_debugger_that_has_stopped_a_process_is_no_signal(tmp_path):
    attach, detach = 16, 17  # <sys/ptrace.h>
    ptrace = ctypes.CDLL(None).ptrace
    with Process(['sleep', '60'], tmp_path) as process:
        assert ptrace(attach, process.pid, 0, 0) == 0
        os.waitpid(process.pid, os.WUNTRACED)
        why = why_stopped(process.pid)
        ptrace(detach, process.pid, 0, 0)
        assert why.startswith(f'process {os.getpid()} traces it')
        eventually(lambda: not why_stopped(process.pid))


@pytest.mark.parametrize(
    ('groups', 'files', 'count'),
    [
        (  # version 2: the group, and those around it
            '0::/site.slice/web\n',
            {
                'cpu.stat': 'usage_usec 9\n',
                'site.slice/cpu.stat': 'nr_periods 9\nnr_throttled 4\n',
                'site.slice/web/cpu.stat': 'nr_periods 9\nnr_throttled 3\n',
            },
            7,
        ),
        (  # version 1
            '5:memory:/a\n4:cpu,cpuacct:/a\n0::/a\n',
            {
                'memory/a/cpu.stat': 'nr_throttled 100\n',
                'cpu,cpuacct/a/cpu.stat': 'nr_periods 1\nnr_throttled 5\n',
            },
            5,
        ),
        ('0::/\n', {'cpu.stat': 'nr_throttled 2\n'}, 2),  # in a container
        ('0::/gone\n', {}, None),
        ('0::/odd\n', {'odd/cpu.stat': 'nr_throttled many\nodd\n'}, None),
    ],
)
def test_the_throttling_of_the_control_group_is_counted(tmp_path, groups, files, count):
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text(groups)
    for name, text in files.items():
        path = tmp_path / 'sys/fs/cgroup' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert throttled_periods(str(tmp_path)) == count


def test_a_system_without_proc_says_nothing_of_throttling(tmp_path):
    assert throttled_periods(str(tmp_path)) is None

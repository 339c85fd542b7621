"""How many CPUs a process may use: the quotas of control groups count."""

import os
import sys

import pytest

from paste_wspbus.ini.settings import MAX_WORKERS, worker_count
from paste_wspbus.unix.cpus import cpu_count
from tests.kit import Process, write


@pytest.mark.parametrize('text', ['auto', 'Auto', 'AUTO'])
def test_auto_is_a_worker_for_each_cpu(text):
    assert worker_count(text) == cpu_count() >= 1


CPUS = len(os.sched_getaffinity(0))


def quotas(tmp_path, cgroup, **files):
    """A folder with what the kernel tells: control groups, CPU quotas."""
    write(tmp_path, {'proc/self/cgroup': cgroup})
    write(tmp_path / 'sys/fs/cgroup', files)
    return cpu_count(str(tmp_path))


def test_without_a_quota_each_cpu_that_may_be_used_counts(tmp_path):
    assert cpu_count(str(tmp_path)) == CPUS
    assert quotas(tmp_path, '0::/\n', **{'cpu.max': 'max 100000\n'}) == CPUS


def test_a_cpu_that_the_process_may_not_use_does_not_count(tmp_path):
    code = (
        'import os; from paste_wspbus.unix.cpus import cpu_count\n'
        'os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n'
        'print(cpu_count())'
    )
    with Process([sys.executable, '-c', code], tmp_path) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == '1\n'


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(64)))


@pytest.mark.parametrize(
    ('quota', 'count'),
    [
        ('200000 100000', 2),
        ('150000 100000', 2),
        ('10000 100000', 1),
        ('1 100000', 1),
        ('6400000 100000', 64),
        ('9900000 100000', 64),
        ('max 100000', 64),
        ('', 64),
        ('nonsense', 64),
        ('100000 0', 64),
        ('-1 100000', 64),
        ('1 2 3', 64),
    ],
)
def test_the_quota_of_a_container_is_rounded_up(tmp_path, many_cpus, quota, count):
    assert quotas(tmp_path, '0::/\n', **{'cpu.max': f'{quota}\n'}) == count


@pytest.mark.parametrize(
    ('own', 'around', 'count'), [('3', '5', 3), ('5', '3', 3), ('max', '4', 4)]
)
def test_the_smallest_quota_of_the_groups_around_it_holds(
    tmp_path, many_cpus, own, around, count
):
    files = {'a/cpu.max': f'{around}0 10\n', 'a/b/cpu.max': 'max 10\n'}
    files['a/b/c/cpu.max'] = f'{own}{"" if own == "max" else "0"} 10\n'
    files['other/cpu.max'] = '10 10\n'
    assert quotas(tmp_path, '0::/a/b/c\n', **files) == count


def test_a_quota_holds_where_the_containers_own_path_is_not_there(tmp_path, many_cpus):
    files = {'cpu.max': '30 10\n'}
    assert quotas(tmp_path, '0::/docker/0123456789ab\n', **files) == 3
    assert quotas(tmp_path, '0::/../../elsewhere\n', **files) == 3


@pytest.mark.parametrize('mount', ['cpu', 'cpu,cpuacct'])
def test_a_quota_of_the_first_version_of_control_groups_holds(
    tmp_path, many_cpus, mount
):
    cgroup = '5:cpuset:/x\n4:cpu,cpuacct:/a/b\n1:name=systemd:/y\n0::/\n'
    files = {
        f'{mount}/a/cpu.cfs_quota_us': '70\n',
        f'{mount}/a/cpu.cfs_period_us': '20\n',
        f'{mount}/a/b/cpu.cfs_quota_us': '-1\n',
        f'{mount}/a/b/cpu.cfs_period_us': '20\n',
    }
    assert quotas(tmp_path, cgroup, **files) == 4


def test_auto_is_never_more_than_a_site_may_have(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(5000)))
    assert worker_count('auto') <= MAX_WORKERS

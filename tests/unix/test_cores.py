"""Where the core dump of a process is, as the system says it."""

import os
import time

import pytest

from paste_wspbus.unix import cores


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Let the system have this core_pattern and core_uses_pid; return what is said."""
    (tmp_path / 'cores').mkdir()

    def set_up(pattern, uses_pid='0'):
        for name, text in {'PATTERN': pattern, 'USES_PID': uses_pid}.items():
            (tmp_path / name).write_text(f'{text}\n')
            monkeypatch.setattr(cores, name, str(tmp_path / name))
        return cores.describe_core(4711, str(tmp_path / 'cores'))

    return set_up


@pytest.mark.parametrize(
    'pattern, uses_pid, name',
    [
        ('core', '0', 'core'),
        ('core', '1', 'core.4711'),
        ('core.%p', '1', 'core.4711'),
        ('%e-%p-%t[x].core', '0', 'python-4711-1700000000[x].core'),
        ('100%%.%p', '0', '100%.4711'),
    ],
)
def test_the_file_that_the_pattern_names_is_found(
    says, tmp_path, pattern, uses_pid, name
):
    (tmp_path / 'cores' / name).write_bytes(b'core')
    (tmp_path / 'cores' / 'core.4712').write_bytes(b'of another')
    assert says(pattern, uses_pid) == f'its core dump is {tmp_path}/cores/{name}'


def test_an_absolute_pattern_names_a_file_elsewhere(says, tmp_path):
    (tmp_path / 'core-4711').write_bytes(b'core')
    told = says(f'{tmp_path}/core-%P')
    assert told == f'its core dump is {tmp_path}/core-4711'


def test_an_old_file_a_link_and_two_files_are_not_named(says, tmp_path):
    folder = tmp_path / 'cores'
    (folder / 'core').write_bytes(b'core')
    os.utime(folder / 'core', (0, time.time() - 2 * cores.FRESH))
    assert says('core') == 'it has dumped core (core_pattern is core)'
    (folder / 'core').unlink()
    (folder / 'core').symlink_to(__file__)
    assert says('core') == 'it has dumped core (core_pattern is core)'
    (folder / 'core.1').write_bytes(b'core')
    (folder / 'core.2').write_bytes(b'core')
    assert says('core.%t') == 'it has dumped core (core_pattern is core.%t)'


def test_a_program_that_gets_core_dumps_is_named(says):
    assert says('|/usr/share/apport/apport -p%p') == (
        'its core dump went to /usr/share/apport/apport'
    )
    assert says('|/usr/lib/systemd/systemd-coredump %P') == (
        'its core dump went to /usr/lib/systemd/systemd-coredump '
        '(coredumpctl info 4711)'
    )


def test_without_a_pattern_the_dump_alone_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, 'PATTERN', str(tmp_path / 'none'))
    assert cores.describe_core(4711, str(tmp_path)) == 'it has dumped core'

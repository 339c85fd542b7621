"""Every sample runs, and answers with a page."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.kit.clients import Connection
from tests.kit.daemons import Terminal
from tests.kit.places import ROOT, SAMPLES

WSPSERVE = Path(sys.executable).with_name('wspserve')

SEEN = {'custom_bus.ini': 'Bus STARTED', 'shop.ini': 'ok'}


@pytest.mark.parametrize('name', sorted(path.name for path in SAMPLES.glob('*.ini')))
def test_a_sample_serves_a_page_and_stops(name, tmp_path):
    has_ops = re.search(r'^ops = ', (SAMPLES / name).read_text(), re.M)
    more = ['--ops', '127.0.0.1:0'] if has_ops else []
    process = subprocess.Popen(
        [WSPSERVE, SAMPLES / name, '--listen', '127.0.0.1:0', *more],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line.startswith('Serving on '):
                break
        else:
            pytest.fail(f'{name} does not serve')
        url = line.removeprefix('Serving on ').strip()
        with urllib.request.urlopen(url, timeout=60) as response:
            assert SEEN.get(name, 'Bus state') in response.read().decode()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize('lines', [[], ['workers = 2', 'soak = 2', 'hung_after = 30']])
def test_production_has_no_warnings_also_with_its_keys_for_workers(lines, tmp_path):
    ini = (SAMPLES / 'production.ini').read_text()
    for line in lines:
        assert f'\n#{line}\n' in ini
        ini = ini.replace(f'\n#{line}\n', f'\n{line}\n')
    (tmp_path / 'site.ini').write_text(ini)
    words = [WSPSERVE, 'site.ini', '--check']
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout == 'site.ini: no mistakes found\n', said.stderr


def test_the_sample_of_a_cluster_has_no_warnings():
    words = [WSPSERVE, 'site.ini', '--check', '--compose', 'web=2']
    said = subprocess.run(
        words, cwd=SAMPLES / 'cluster', capture_output=True, text=True
    )
    assert 'site.ini: no mistakes found; ' in said.stdout, said.stdout + said.stderr


def test_the_demonstration_of_a_cluster_rolls_a_release_and_survives_its_leader():
    if shutil.which('redis-server') is None:
        pytest.skip('redis-server is not installed: see .ci/system-packages')
    words = [sys.executable, SAMPLES / 'cluster' / 'demo.py', '--ttl=1', '--no-soak']
    said = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert said.returncode == 0, said.stdout + said.stderr
    assert '3 machines restarted' in said.stdout
    failed = re.search(r'^(\d+) of (\d+) requests have failed\.$', said.stdout, re.M)
    assert failed[1] == '0' and int(failed[2]) > 10
    assert re.search(r'^web\d leads, [\d.]+ s later\.', said.stdout, re.M)
    *_, last = said.stdout.split('MACHINE ')
    rows = [line.split() for line in last.splitlines()[1:4]]
    assert sorted(row[1] for row in rows) == ['silent', 'started', 'started']
    assert {row[2] for row in rows} == {'2', '?'}


def test_the_first_example_of_the_readme_prints_what_the_readme_shows(tmp_path):
    readme = (ROOT / 'README.md').read_text()
    wanted = re.search(r'\$ wspserve shop\.ini\n(.*?)```', readme, re.S)[1]
    made = [WSPSERVE, 'new', 'ini', '--from', 'shop']
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    ini = (tmp_path / 'shop.ini').read_text().replace('port = 8080', 'port = 0')
    (tmp_path / 'shop.ini').write_text(ini)
    terminal = Terminal()
    process = terminal.start([WSPSERVE, 'shop.ini'], tmp_path)
    try:
        assert terminal.read_until(b'Serving on http://127.0.0.1:'), terminal.text
        assert terminal.read_until(b'\r\n'), terminal.text
        port = int(re.search(rb'127\.0\.0\.1:(\d+)', terminal.text)[1])
        with Connection(('127.0.0.1', port)) as client:
            client.send('/report', connection='close')
            terminal.press_ctrl_c()
            assert client.receive().status == 200
        terminal.read_until(b'never said')
        assert process.wait(60) == 0, terminal.text
    finally:
        process.kill()
        process.wait()
        terminal.close()
    assert plain(terminal.lines) == plain(wanted.replace('^C', '').splitlines())


def plain(lines):
    """Return the lines without times, process IDs and ports."""
    lines = [re.sub(r'^\d{4}-\S+ \S+ ', '', line) for line in lines if line]
    return [re.sub(r'(PID |127\.0\.0\.1:)\d+', r'\1N', line) for line in lines]


def test_an_executable_sample_needs_no_more_than_its_first_line(tmp_path):
    ini = tmp_path / 'site.ini'
    ini.write_text('#!/usr/bin/env wspserve\n' + (SAMPLES / 'hello.ini').read_text())
    ini.chmod(0o755)
    path = f'{WSPSERVE.parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        [ini, '--check'],
        env={**os.environ, 'PATH': path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('name', sorted(path.name for path in SAMPLES.glob('*.ini')))
def test_check_finds_nothing_wrong_with_a_sample(name, tmp_path):
    done = subprocess.run(
        [WSPSERVE, '--check', SAMPLES / name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert 'no mistakes found' in done.stdout

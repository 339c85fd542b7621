"""Every sample runs, and answers with a page."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.kit.places import SAMPLES

WSPSERVE = Path(sys.executable).with_name('wspserve')

SEEN = {'custom_bus.ini': 'Bus STARTED', 'shop.ini': 'ok'}


@pytest.mark.parametrize('name', sorted(path.name for path in SAMPLES.glob('*.ini')))
def test_a_sample_serves_a_page_and_stops(name, tmp_path):
    process = subprocess.Popen(
        [WSPSERVE, SAMPLES / name, '--listen', '127.0.0.1:0'],
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

"""A wheel, installed where nothing of the checkout is, serves."""

import os
import signal
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent

SITE = """
[app:main]
use = egg:paste_wspbus#hello
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""


def pip(python, *args):
    command = [python, '-m', 'pip', '--quiet', '--disable-pip-version-check', *args]
    subprocess.run(command, check=True, timeout=300)


def serves(command, cwd):
    """Whether a command serves the site, stops at SIGTERM, and says no more than it should."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout.readline().startswith('Starting server in PID')
            url = process.stdout.readline().removeprefix('Serving on ').strip()
            with urllib.request.urlopen(url, timeout=60) as response:
                assert 'Bus state' in response.read().decode()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)
        finally:
            process.kill()
    return (process.returncode, *rest) == (0, '', '')


def test_a_built_wheel_serves_from_an_empty_environment(tmp_path):
    pip(sys.executable, 'wheel', '--no-deps', '--wheel-dir', tmp_path, ROOT)
    (wheel,) = tmp_path.glob('paste_wspbus-*.whl')
    venv.create(tmp_path / 'venv', with_pip=True)
    bin = tmp_path / 'venv/bin'
    pip(bin / 'python', 'install', wheel)
    (tmp_path / 'site.ini').write_text(SITE)
    assert serves([bin / 'wspserve', 'site.ini'], tmp_path)
    assert serves([bin / 'python', '-m', 'paste_wspbus', 'site.ini'], tmp_path)
    assert serves([bin / 'paster', 'wspserve', 'site.ini'], tmp_path)

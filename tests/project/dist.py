"""Tries a wheel and an sdist as somebody who has nothing else, and says what they need.

    python -m tests.project.dist FOLDER PYTHON...

`make dist` runs it. For each Python, it installs the wheel of FOLDER into an empty
environment, serves a sample, and runs a room of the tests from the sdist. Then it writes
two files into FOLDER: an SBOM (CycloneDX) and the licences of all dependencies, those of
the extras for users included.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path

#: The extras that are for those who work on the package.
OURS = {'bench', 'dist', 'docs', 'lint', 'test'}

#: The tests that are run from the sdist: they need pytest alone.
ROOM = 'tests/bus/test_channels.py', 'tests/bus/test_lifespans.py'

#: What the licence of a dependency must have in its name: one that asks for nothing but
#: its own text, or whose terms end at its own files (MPL).
FREE = re.compile(r'\b(MIT|BSD|Apache|ISC|Python|PSF|ZPL|Zope|MPL|Mozilla|Unlicense)\b')

ENV = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}


def run(*words, **kwargs):
    """Run a command; return what it prints."""
    words = [str(word) for word in words]
    kwargs = {'stdout': subprocess.PIPE, 'text': True, 'env': ENV} | kwargs
    done = subprocess.run(words, **kwargs)
    if done.returncode:
        sys.exit(f'{" ".join(words)}:\n{done.stdout}')
    return done.stdout


def environment(python, folder, *installed):
    """Make a virtual environment; return its folder of commands."""
    run(python, '-m', 'venv', folder)
    pip = folder / 'bin/python', '-m', 'pip', '--quiet', '--disable-pip-version-check'
    run(*pip, 'install', *installed)
    run(*pip, 'check')
    return folder / 'bin'


def try_wheel(bin, folder):
    """Serve a sample, as the README shows."""
    run(bin / 'wspserve', 'new', 'ini', '--from', 'shop', cwd=folder)
    start = run(
        bin / 'wspserve', 'shop.ini', 'start', '--listen', '127.0.0.1:0', cwd=folder
    )
    (url,) = re.findall(r'Serving on (\S+)', start)
    try:
        with urllib.request.urlopen(url, timeout=60) as page:
            assert page.read() == b'ok\n'
    finally:
        run(bin / 'wspserve', 'shop.ini', 'stop', cwd=folder)


def try_sdist(bin, sdist, folder):
    """Run a room of the tests from the sdist; return pytest's last line."""
    with tarfile.open(sdist) as opened:
        opened.extractall(folder, filter='data')
    (root,) = folder.iterdir()
    code = 'import paste_wspbus; print(paste_wspbus.__file__)'
    assert run(bin / 'python', '-c', code, cwd=root).startswith(str(root))
    words = [bin / 'python', '-W', 'error', '-m', 'pytest', '-q', *ROOM]
    return run(*words, cwd=root).splitlines()[-1]


def extras(wheel):
    """Return the extras of a wheel that are for users."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (one for one in opened.namelist() if one.endswith('/METADATA'))
        found = metadata.PathDistribution(zipfile.Path(opened, name).parent).metadata
    return sorted(set(found.get_all('Provides-Extra')) - OURS)


def describe(python, wheel, folder):
    """Write the SBOM and the licences.

    :raises SystemExit: if a licence is unknown, or asks for more.
    """
    asked = f'{wheel}[{",".join(extras(wheel))}]'
    bin = environment(python, folder / 'all', asked)
    tools = Path(sys.executable).parent
    name = wheel.name.rpartition('-py3')[0]
    sbom, licences = (
        wheel.parent / f'{name}.cdx.json',
        wheel.parent / f'{name}.licences.md',
    )
    words = ['environment', '--output-reproducible', '--of', 'JSON', '-o', sbom]
    run(tools / 'cyclonedx-py', *words, bin / 'python', stderr=subprocess.DEVNULL)
    words = [
        tools / 'pip-licenses',
        '--python',
        bin / 'python',
        '--from',
        'mixed',
        '--with-system',
    ]
    words += ['--ignore-packages', 'pip']
    found = json.loads(run(*words, '--format', 'json'))
    others = [one for one in found if not FREE.search(one['License'])]
    if others:
        sys.exit(f'Look at these licences: {others}')
    licences.write_text(run(*words, '--format', 'markdown', '--with-urls'))
    print(f'{sbom.name}: {len(json.loads(sbom.read_text())["components"])} components')
    print(f'{licences.name}: {len(found)} distributions')


def main(folder, *pythons):
    (wheel,) = Path(folder).resolve().glob('*.whl')
    (sdist,) = Path(folder).resolve().glob('*.tar.gz')
    with tempfile.TemporaryDirectory() as made:
        for number, python in enumerate(pythons):
            at = Path(made, str(number))
            (at / 'site').mkdir(parents=True)
            bin = environment(python, at / 'venv', wheel)
            try_wheel(bin, at / 'site')
            run(bin / 'python', '-m', 'pip', '--quiet', 'install', 'pytest')
            print(
                f'{python}: serves; from the sdist: {try_sdist(bin, sdist, at / "sdist")}'
            )
        describe(pythons[0], wheel, Path(made))


if __name__ == '__main__':
    main(*sys.argv[1:])

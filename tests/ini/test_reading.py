"""What an .ini may be: its encoding, its line ends, its folder, and how it is named."""

import itertools
import subprocess
import sys

import pytest

from tests.ini.test_bad_input import LOGGED
from tests.kit import Site
from tests.kit.sites import APP, SERVED

INI = SERVED.lstrip('\n') + LOGGED + '[DEFAULT]\nlog = %(here)s/site.log\n'


def serves(folder, *args):
    with Site(folder, None, *(args or ['site.ini'])) as site:
        assert site.get().status == 200
        assert site.stop()[0] == 0


FORMS = {
    'a byte order mark': lambda ini: b'\xef\xbb\xbf' + ini.encode(),
    "Windows' line ends": lambda ini: ini.replace('\n', '\r\n').encode(),
    'both': lambda ini: b'\xef\xbb\xbf' + ini.replace('\n', '\r\n').encode(),
    'letters': lambda ini: f'# größer\n{ini}'.encode(),
}


@pytest.mark.parametrize('name', FORMS)
def test_a_file_as_editors_save_it(tmp_path, name):
    (tmp_path / 'webapp.py').write_text(APP)
    (tmp_path / 'site.ini').write_bytes(FORMS[name](INI))
    serves(tmp_path)


@pytest.mark.parametrize('name', ['100%', 'a%b', '%(here)s', '%%', '%(ENV_HOME)s'])
def test_a_folder_with_a_percent_sign(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'webapp.py').write_text(APP)
    first = INI.replace('use = call', 'here2 = %(log)s\nuse = call')
    (folder / 'site.ini').write_text(
        '[app:main]\nuse = config:other.ini\n' + first.partition('\n\n')[2]
    )
    (folder / 'other.ini').write_text('[app:main]\nuse = call:webapp:make\n')
    serves(folder)


@pytest.mark.parametrize(
    ('scheme', 'path'),
    [
        ('config', 'site.ini'),
        ('config', '{}/site.ini'),
        *itertools.product(
            ['pastedeploy', 'pastedeploy+ini', 'file+ini'],
            ['site.ini', '//site.ini', '{}/site.ini', '//{}/site.ini'],
        ),
    ],
)
def test_the_uris_of_pserve(tmp_path, scheme, path):
    (tmp_path / 'webapp.py').write_text(APP)
    (tmp_path / 'site.ini').write_text(INI.replace('[app:main]', '[app:shop]'))
    serves(tmp_path, f'{scheme}:{path.format(tmp_path)}#shop')


#: Reads an .ini as a supervisor does, and prints what it has imported for the error.
READS = """
import sys
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.config import Config

before = {*sys.modules}
try:
    Config(sys.argv[1], {}, '.')
except ConfigError as error:
    print(error, *sorted({*sys.modules} - before), sep='\\n')
"""


@pytest.mark.parametrize(
    ('name', 'problem'),
    [
        ('gone.ini', 'there is no such file'),
        ('folder', 'it is a directory, not an .ini file'),
        ('twice.ini', 'the file has this section twice (line 2)'),
        ('open.ini', "'[app:main' has no closing bracket"),
    ],
)
def test_an_error_of_reading_imports_little_for_a_supervisor_keeps_it(
    tmp_path, name, problem
):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'twice.ini').write_text('[app:main]\n[app:main]\n')
    (tmp_path / 'open.ini').write_text('[app:main\n')
    words = [sys.executable, '-c', READS, name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    line, *imported = done.stdout.splitlines()
    assert problem in line, done.stdout + done.stderr
    large = {'ast', 'email', 'importlib.metadata', 'inspect', 'zipfile'}
    assert not large & {*imported}
    assert 'paste_wspbus.ini.mistakes' not in imported

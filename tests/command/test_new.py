"""``wspserve new`` and ``paster create``: a package or an .ini to begin with."""

import subprocess
import sys

import pytest

from tests.kit import run
from tests.kit.processes import BIN, Process


def test_it_says_what_was_made_and_what_comes_next(tmp_path):
    process = run(tmp_path, 'new', 'plugin', 'acme-cache')
    assert (process.code, process.err.text) == (0, '')
    assert '  acme-cache/acme_cache/__init__.py\n' in process.out.text
    assert 'wspserve plugins acme_cache' in process.out.text


def test_a_commented_ini_can_be_served_as_it_is(tmp_path):
    assert run(tmp_path, 'new', 'ini', 'shop.ini').out.text == (
        'Made shop.ini. Next: wspserve shop.ini\n'
    )
    checked = run(tmp_path, '--check', 'shop.ini')
    assert checked.out.text == 'shop.ini: no mistakes found\n', checked.report()


def test_a_copy_of_a_sample_can_be_served_as_it_is(tmp_path):
    assert run(tmp_path, 'new', 'ini', '--from', 'shop').out.text == (
        'Made shop.ini, pool.py, shop.py. Next: wspserve shop.ini\n'
    )
    checked = run(tmp_path, '--check', 'shop.ini')
    assert checked.out.text == 'shop.ini: no mistakes found\n', checked.report()
    made = run(tmp_path, 'new', 'ini', 'many', '--from', 'cluster').out.text
    assert 'Made many/site.ini, ' in made
    assert made.endswith('. Next: cd many; wspserve site.ini web=1\n')


def test_what_comes_next_is_the_first_command_in_the_comments_of_the_sample(tmp_path):
    made = run(tmp_path, 'new', 'ini', '--from', 'zope').out.text
    assert made.endswith('cd zope; mkdir -p var/log var/cache; wspserve zope.ini\n')
    made = run(tmp_path, 'new', 'ini', 'my.ini', '--from', 'own_restart').out.text
    assert made.endswith('. Next: wspserve my.ini --reload\n')


def test_from_without_a_name_lists_the_samples(tmp_path):
    process = run(tmp_path, 'new', 'ini', '--from')
    assert '\nworkers      A site with two workers and' in process.out.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'words, said',
    [
        (['new'], 'new makes a plugin, a site or an ini, as in: new plugin acme-cache'),
        (['new', 'plugn', 'x'], "did you mean 'plugin'?"),
        (['new', 'site'], 'new site: give it a name'),
        (['new', 'site', 'a', 'b'], 'new site takes one name: leave out b'),
        (['new', 'plugin', 'json'], "json is a module of Python's standard library"),
        (
            ['new', 'ini', '--from', 'worker'],
            "no sample 'worker': choose one of access",
        ),
        (['new', 'site', '--from', 'shop'], 'write new ini --from shop'),
        (
            ['new', 'ini', 'my.ini', '--from', 'docker'],
            'docker is a folder: give its copy a name without .ini',
        ),
        (['--from'], '--from FILE needs the .ini of a uWSGI site'),
        (['site.ini', 'new'], 'new makes something new: leave out the file'),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, said):
    process = run(tmp_path, *words)
    assert process.code == 2
    assert said in process.err.text
    assert process.err.text.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_it_imports_neither_pastescript_nor_the_servers(tmp_path):
    code = (
        'import sys; from paste_wspbus.command.main import main; '
        'main(["new", "site", "acme"]); '
        'print([one for one in ("paste.script", "pkg_resources", "waitress") '
        'if one in sys.modules])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_paster_makes_the_same(tmp_path):
    run(tmp_path, 'new', 'site', 'acme-one')
    create = [BIN / 'paster', 'create', '-t', 'wspbus_site']
    with Process([*create, '-o', 'sub', 'acme-one'], tmp_path) as process:
        assert process.wait() == 2  # the folder sub does not exist
        assert 'no such file or directory' in process.out.text + process.err.text
    (tmp_path / 'sub').mkdir()
    with Process([*create, '-o', 'sub', 'acme-one'], tmp_path) as process:
        assert process.wait() == 0, process.report()
    ours, theirs = tmp_path / 'acme-one', tmp_path / 'sub' / 'acme-one'

    def texts(folder):
        files = (one for one in folder.rglob('*') if one.is_file())
        return {one.relative_to(folder): one.read_text() for one in files}

    assert texts(ours) == texts(theirs)

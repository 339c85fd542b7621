"""The examples of the documentation: the .ini passes --check, the Python compiles."""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

from paste_wspbus.cluster.settings import read as read_cluster
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.check import check
from paste_wspbus.ini.config import Config
from tests.kit.places import DOCS, ROOT
from tests.project.pages import PAGES, anchors, blocks_of, links, prose

#: An .ini of another program, or of a host.
FOREIGN = re.compile(r'^\[(uwsgi|program:|Unit|Service|Socket)', re.M)


def completed(text, folder):
    """Add what an example leaves out, and make the modules and folders that it names."""
    if not re.match(r'\s*[#;\[]', text):
        text = f'[wspbus:main]\n{text}'
    text = re.sub(r'^(url = )%\(ENV_\w+\)s', r'\1sqlite:///site.db', text, flags=re.M)
    text = re.sub(r'%\(ENV_\w+\)s', 'from-the-environment', text)
    text = re.sub(r'^(file = |reports = )/', rf'\1{folder}/', text, flags=re.M)
    for key, path in re.findall(r'^(file|reports) = (/.*)', text, re.M):
        named = Path(path)
        (named if key == 'reports' else named.parent).mkdir(parents=True, exist_ok=True)
    for name in re.findall(r'^ssl_\w+ = %\(here\)s/(\S+)', text, re.M):
        Path(folder, name).touch()
    for dist in set(re.findall(r'\begg:([\w.-]+)', text)):
        if not is_installed(dist):
            text = re.sub(rf'\begg:{re.escape(dist)}(#\w+)?', 'call:example:make', text)
    listed = re.findall(r'^\w*plugins = (.*(?:\n[ \t]+.*)*)', text, re.M)
    for name in re.split(r'[\s,]+', ' '.join(listed)):
        if name and f'[plugin:{name}]' not in text:
            text += f'\n[plugin:{name}]\nuse = call:example:make\n'
    named = re.findall(r'^pipeline =(?:.*\n[ \t]+)*.*?(\w+)$', text, re.M)
    for name in named + re.findall(r'^/\S* = (\w+)$', text, re.M):
        if f':{name}]' not in text:
            text += f'\n[app:{name}]\nuse = egg:paste_wspbus#hello\n'
    if not re.search(
        r'^\[(app|composite|pipeline|filter-app|application):main\]', text, re.M
    ):
        text += '\n[app:main]\nuse = egg:paste_wspbus#hello\n'
    if '[server:main]' not in text:
        text += '\n[server:main]\nuse = egg:waitress\nport = 0\n'
    named = re.findall(r'\b(?:call:|(?:run|app|\w+_factory) = )([\w.]+):([\w.]+)', text)
    write_modules({('example', 'make'), *named}, folder)
    return text


def write_included(text, folder):
    """Make the files that an example takes sections from."""
    for name in set(re.findall(r'config:(\w+\.ini)', text)):
        plugins = re.findall(rf'config:{re.escape(name)}#(\w+)', text)
        (folder / name).write_text(
            '[app:main]\nuse = egg:paste_wspbus#hello\n'
            '[server:main]\nuse = egg:waitress\nport = 0\n'
            + ''.join(f'[plugin:{one}]\nuse = call:example:make\n' for one in plugins)
        )


def is_installed(distribution):
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def write_modules(functions, folder):
    for module, function in functions:
        *packages, name = module.split('.')
        at = folder
        for package in packages:
            at = at / package
            at.mkdir(exist_ok=True)
            (at / '__init__.py').touch()
        with (at / f'{name}.py').open('a') as file:
            file.write(f'def {function}(*args, **kwargs): ...\n')


def check_example(text, folder):
    path = folder / 'site.ini'
    path.write_text(completed(text, folder))
    write_included(text, folder)
    config = Config(str(path), {}, folder)
    check(config)
    read_cluster(config.loader, str(path))


@pytest.mark.parametrize('block', blocks_of('ini'), ids=str)
def test_an_ini_of_the_docs_passes_the_check(block, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    if not FOREIGN.search(block.text):
        check_example(block.text, tmp_path)


@pytest.mark.parametrize(
    'text',
    [
        '[wspbus:main]\nworker = 2\n',
        '[wspbus:main]\nstop_timeout = soon\n',
        '[cluster:main]\nttl = 0\n',
        '[plugin:job]\nuse = egg:paste_wspbus#cron\nwen = @daily\n'
        '[wspbus:main]\nplugins = job\n',
        '[server:main]\nuse = egg:waitress\nprt = 80\n',
    ],
)
def test_a_wrong_example_does_not_pass(text, tmp_path):
    with pytest.raises(ConfigError):
        check_example(text, tmp_path)


@pytest.mark.parametrize('block', blocks_of('python'), ids=str)
def test_the_python_of_the_docs_compiles(block):
    ast.parse(block.text, str(block))


# -- tables and links ---------------------------------------------------------------------------


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_row_stands_in_a_table_with_as_many_columns(page):
    for paragraph in re.split(r'\n\s*\n', prose(page)):
        if re.search(r'^\|', paragraph, re.M):
            rows = [
                row.replace('\\|', '') for row in paragraph.strip('\n').splitlines()
            ]
            assert re.fullmatch(r'[|\s:-]+', rows[1]), paragraph
            for row in rows:
                assert row.startswith('|'), row
                assert row.count('|') == rows[1].count('|'), row


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_to_a_title_of_it(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor and target.suffix == '.md':
            assert anchor in anchors(target), f'{path}#{anchor}'


def test_each_page_is_in_the_index():
    listed = {(DOCS / path).resolve() for path, _ in links(DOCS / 'index.md')}
    assert {*DOCS.rglob('*.md')} - listed == {DOCS / 'index.md'}

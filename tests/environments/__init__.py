"""Virtual environments of the guests and hosts that the suite's own cannot hold.

    python -m tests.environments [NAME …]

makes those named, or all that this Python is for, in a cache folder, with this
checkout in each: $WSPBUS_ENVIRONMENTS, or ~/.cache/paste_wspbus. `make
environments` does it. A test gets one by ``environment('zope')``: where it is
missing, the test is skipped with a line that says how to make it, and under CI fails.

The versions are those in .ci/requirements/environments/, which `make pins` chooses. One
that is there already stays as it is.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PINS = ROOT / '.ci/requirements/environments'
PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'


#: The Pythons on which the big ones run: they work on 3.12, too, but take minutes.
SOME = ('3.11', '3.13')

#: Whose environment a test file uses that is named after something else.
IN = {
    'barbican': 'openstack',
    'mixed': 'pylons',
    'zdaemon': 'zope',
    'dataflake': 'pyruvate',
    'fast_listen': 'zope',
    'leased_gunicorn': 'gunicorn',
}


class Recipe(NamedTuple):
    #: What pip installs.
    requirements: list[str]
    #: The Pythons that its tests run on.
    pythons: tuple[str, ...] = ('3.11', '3.12', '3.13')
    #: Run with the environment's Python and folder, to finish it.
    script: Path | None = None
    #: What this script installs, beside that.
    by_script: tuple[str, ...] = ()


RECIPES = {
    'pylons': Recipe(
        [
            *('Pylons==1.0.3', 'WebError==0.13.1', 'WebHelpers==1.3'),
            *('CherryPy>=18.10', 'Flask>=3', 'pyramid>=2.0.2'),  # sample_ini/mixed
            *('fissix', 'pytest>=8'),
        ],
        pythons=SOME,
        script=HERE / 'convert_pylons.py',  # they are for Python 2
    ),
    'turbogears': Recipe(
        [
            'TurboGears2>=2.5',
            'tg.devtools>=2.5',  # gearbox, with which a project is made
            *('Babel', 'Beaker', 'Kajiki', 'Mako', 'WebHelpers2', 'backlash'),
            *('Paste>=3.10', 'WebTest>=3.0', 'pytest>=8'),
        ],
        pythons=SOME,
    ),
    'gunicorn': Recipe(['gunicorn>=23'], pythons=SOME),
    # One that is too old.
    'gunicorn-19': Recipe(['gunicorn==19.10.0'], pythons=('3.11',)),
    'patched': Recipe(
        ['gevent>=24', 'eventlet>=0.39', 'waitress>=3', 'cheroot>=10', 'Paste>=3.10'],
        pythons=SOME,
    ),
    # For tests/hosts/test_zdaemon.py and tests/servers/test_fast_listen.py, too.
    'zope': Recipe(
        [
            *('Zope[wsgi]>=6', 'ZEO>=6', 'zdaemon>=5'),
            *('plone.recipe.zope2instance>=9', 'waitress_fastlisten'),
        ],
        pythons=SOME,
    ),
    # Sites from PyPI that are served as they are: see docs/published.md. Of Plone's
    # unpinned packages some are already the next major release's.
    'kinto': Recipe(['kinto>=26'], pythons=('3.11',)),
    'openstack': Recipe(
        ['barbican>=23', 'glance>=33', 'keystone>=30', 'swift>=2.38'], pythons=('3.11',)
    ),
    'plone': Recipe(
        ['plone.classicui>=2', 'Products.CMFPlone>=6.2,<6.3', 'plone.app.layout<7'],
        pythons=('3.11',),
    ),
    'kallithea': Recipe(
        [
            *('SQLAlchemy<1.4', 'TurboGears2>=2.4,<2.5', 'alembic<1.5', 'dulwich'),
            *('Babel', 'Beaker', 'FormEncode>=2', 'Mako', 'Markdown', 'Paste'),
            *('Pygments', 'Routes', 'URLObject', 'WebHelpers2', 'Whoosh', 'backlash'),
            *('bcrypt', 'bleach', 'celery>=5', 'chardet', 'click', 'decorator'),
            *('docutils', 'gearbox', 'ipaddr', 'mercurial', 'paginate'),
            *('paginate-sqlalchemy', 'python-dateutil', 'tgext.routes'),
        ],
        pythons=('3.11',),
        script=HERE / 'install_kallithea.py',
    ),
    # For tests/servers/test_dataflake.py, too.
    'pyruvate': Recipe(
        [
            'pyruvate>=1.6',
            'dataflake.wsgi.cheroot>=2.2',
            'dataflake.wsgi.werkzeug>=2.2',
        ],
        pythons=('3.11',),
    ),
    # The newest release is the one that its tests' expectations were read from.
    'uwsgi': Recipe(['uWSGI>=2.0.28'], pythons=('3.11',)),
    # Debian's Python, which Apache runs, is a 3.11.
    'mod_wsgi': Recipe(
        [],
        pythons=('3.11',),
        script=HERE / 'install_mod_wsgi.py',
        by_script=('mod_wsgi>=6',),
    ),
}


def is_for_this_python(name):
    """Elsewhere its tests are not collected: see conftest.py."""
    return PYTHON in RECIPES[name].pythons


def of_file(path):
    """The name of the environment that a test file uses, by the file's name."""
    name = path.stem.removeprefix('test_')
    return IN.get(name, name)


def environment(name):
    """The folder of an environment that was made; its programs are in ``bin``."""
    folder = _folder(name)
    if not (folder / 'made').exists():
        import pytest

        missing = f'{name} is not installed: python -m tests.environments {name}'
        if os.environ.get('CI'):
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def make(name):
    """Make it, if it is not there; return its folder."""
    folder = _folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(f'{folder}.lock'):
        if not (folder / 'made').exists():
            _install(RECIPES[name], folder, pins(name))
            (folder / 'made').touch()
    return folder


def pins(name):
    """The file with the version of each distribution that an environment gets."""
    return PINS / f'{name}.txt'


@contextlib.contextmanager
def _locked(path):
    with open(path, 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(recipe, folder, constraint):
    _run(sys.executable, '-m', 'venv', '--clear', folder)
    python = folder / 'bin' / 'python'
    pip = python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check'
    pip += '--constraint', constraint
    if recipe.requirements:
        _run(*pip, *recipe.requirements)
    with _locked(folder.parent / 'checkout.lock'):  # what it builds is there
        _run(*pip, '--editable', ROOT)
    if recipe.script:
        _run(python, recipe.script, folder, PIP_CONSTRAINT=str(constraint))


def _folder(name):
    recipe = RECIPES[name]
    parts = [str(ROOT), *recipe.requirements, (ROOT / 'setup.cfg').read_text()]
    if recipe.script:
        parts.append(recipe.script.read_text())
    digest = hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]
    cache = os.environ.get('WSPBUS_ENVIRONMENTS') or '~/.cache/paste_wspbus'
    return Path(cache).expanduser() / f'{name}-{PYTHON}-{digest}'


def _run(*command, **variables):
    env = {**os.environ, **variables}
    subprocess.run([str(part) for part in command], check=True, env=env)

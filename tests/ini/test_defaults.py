"""The keys of [wspbus:main] that put something in the place of a default."""

import os
import pathlib
import re
import shutil
import sys
import tempfile

import pytest

from paste_wspbus.errors import ConfigError, FactoryError, UsageError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.defaults import (
    check_replaced,
    daemonizer,
    drop_privileges,
    made,
    pid_lock,
    refuse_untrusted,
    replaced,
)
from paste_wspbus.ini.settings import DEFAULTS, EARLY_DEFAULTS
from tests.kit import run

CODE = """
def early(default, global_conf):
    return lambda *args: (default, args)
def plugin(bus, global_conf):
    return Plugin()
def nothing(bus, global_conf):
    return None
def number(default, global_conf):
    return 1
def fails(*args):
    raise LookupError('out of order')
def fails_later(default, global_conf):
    return fails
class Plugin:
    subscribed = 0
    def subscribe(self):
        self.subscribed += 1
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    (tmp_path / 'defaults_of_a_test.py').write_text(CODE)
    folder = tmp_path / 'early_of_a_test-1.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: early_of_a_test\nVersion: 1.0\n'
    )
    (folder / 'entry_points.txt').write_text(
        '[paste_wspbus.default_factory]\nmain = defaults_of_a_test:early\n'
        '[paste_wspbus.plugin_factory]\nmain = defaults_of_a_test:plugin\n'
    )
    monkeypatch.syspath_prepend(tmp_path)

    def make(**keys):
        lines = [f'{key} = {value}\n' for key, value in keys.items()]
        (tmp_path / 'site.ini').write_text('[wspbus:main]\n' + ''.join(lines))
        return Config(str(tmp_path / 'site.ini'), {}, str(tmp_path))

    yield make
    sys.modules.pop('defaults_of_a_test', None)


OURS = 'call:defaults_of_a_test'


@pytest.mark.parametrize('key', EARLY_DEFAULTS)
@pytest.mark.parametrize('spec', [f'{OURS}:early', 'egg:early_of_a_test'])
def test_what_acts_early_gets_the_default(conf, key, spec):
    default = object()
    assert replaced(conf(), key, default) is default
    assert replaced(conf(**{key: spec}), key, default)(1) == (default, (1,))


@pytest.mark.parametrize('key', sorted({*DEFAULTS} - {*EARLY_DEFAULTS}))
@pytest.mark.parametrize('spec', [f'{OURS}:plugin', 'egg:early_of_a_test'])
def test_a_plugin_has_the_factory_of_any_plugin(conf, bus, key, spec):
    assert made(conf(**{key: spec}), key, bus).subscribed == 0


@pytest.mark.parametrize(
    'key, spec, error, why',
    [
        ('threads', 'ours', ConfigError, "'ours' is not egg:"),
        ('threads', 'call:', ConfigError, 'is not egg:'),
        ('threads', 'call:gone:x', ConfigError, "threads: there is no module 'gone'"),
        ('threads', f'{OURS}:plugn', ConfigError, "did you mean 'plugin'"),
        ('threads', 'egg:gone-dist', ConfigError, 'is not installed'),
        ('threads', 'egg:early_of_a_test#x', ConfigError, "no entry point 'x'"),
        ('threads', f'{OURS}:nothing', ConfigError, 'has no subscribe'),
        (
            'threads',
            f'{OURS}:fails',
            FactoryError,
            'threads: fails failed: LookupError',
        ),
        ('daemonizer', f'{OURS}:number', ConfigError, 'cannot be called'),
        ('daemonizer', f'{OURS}:nothing', FactoryError, 'daemonizer: .*returned None'),
        ('daemonizer', f'{OURS}:fails', FactoryError, 'daemonizer: fails failed: Look'),
    ],
)
def test_mistakes_name_the_key(conf, bus, key, spec, error, why):
    with pytest.raises(error, match=why):
        config = conf(**{key: spec})
        if key in EARLY_DEFAULTS:
            replaced(config, key, print)
        else:
            made(config, key, bus)


@pytest.mark.parametrize('spec', ['call:gone:x', f'{OURS}:plugn', 'egg:gone-dist'])
def test_check_finds_them_without_an_import(conf, spec):
    with pytest.raises(ConfigError, match='threads'):
        check_replaced(conf(threads=spec), 'threads')
    check_replaced(conf(threads=f'{OURS}:plugin'), 'threads')
    assert 'defaults_of_a_test' not in sys.modules


@pytest.mark.parametrize('key', EARLY_DEFAULTS)
def test_what_fails_when_it_is_called_is_named_with_its_key(conf, key):
    config = conf(**{key: f'{OURS}:fails_later'})
    with pytest.raises(FactoryError) as caught:
        replaced(config, key, print)()
    line = rf'{key}: it failed: LookupError: out of order, at .*defaults_of_a_test'
    assert re.search(line, str(caught.value))


def test_an_error_of_the_default_stays_as_it_is(conf):
    def default():
        raise UsageError('no user')

    (pathlib.Path(conf().file).parent / 'defaults_of_a_test.py').write_text(
        'def early(default, global_conf):\n    return lambda: default()\n'
    )
    with pytest.raises(UsageError):
        replaced(conf(privileges=f'{OURS}:early'), 'privileges', default)()


def test_a_daemonizer_must_return_the_report(conf):
    config = conf(daemonizer=f'{OURS}:early')
    with pytest.raises(ConfigError, match='instead of the Report'):
        daemonizer(config, print)(None, ())


def test_a_pid_file_must_be_a_lock(conf):
    config = conf(pidfile=f'{OURS}:early')
    with pytest.raises(ConfigError, match='instead of a PIDLock'):
        pid_lock(config, dict)('x.pid', None)


def test_the_change_of_the_user_is_verified(conf):
    class Identity:
        verified = 0

        def take(self):
            raise AssertionError('the replacement did not call it')

        def verify(self):
            self.verified += 1

    identity = Identity()
    drop_privileges(conf(privileges=f'{OURS}:early'), identity)
    assert identity.verified == 1
    drop_privileges(conf(privileges=f'{OURS}:early'), None)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root has other users to fear')
class TestAsRoot:
    @pytest.mark.parametrize('key', EARLY_DEFAULTS)
    def test_code_beside_the_ini_is_refused(self, conf, key):
        with pytest.raises(
            ConfigError, match=f'{key}: it acts as root, so it must be egg:'
        ):
            refuse_untrusted(conf(**{key: f'{OURS}:early'}))

    def test_an_egg_of_root_s_is_taken(self, conf, monkeypatch, tmp_path, request):
        safe = tempfile.mkdtemp(prefix='wspbus-', dir='/root')  # not below /tmp
        request.addfinalizer(lambda: shutil.rmtree(safe))
        config = conf(privileges='egg:early_of_a_test')
        for one in tmp_path.iterdir():
            shutil.move(one, safe)
        monkeypatch.syspath_prepend(safe)
        refuse_untrusted(config)

    def test_an_egg_that_others_can_write_is_refused(self, conf, tmp_path):
        config = conf(privileges='egg:early_of_a_test')
        module = tmp_path / 'defaults_of_a_test.py'
        os.chmod(module, 0o666)
        with pytest.raises(
            ConfigError, match=r'others than root can write to .*_test\.py'
        ):
            refuse_untrusted(config)
        os.chmod(module, 0o644)
        os.chown(module, 65534, -1)
        with pytest.raises(ConfigError, match='others than root can write'):
            refuse_untrusted(config)

    def test_an_egg_in_a_folder_of_others_is_refused(self, conf, tmp_path):
        config = conf(privileges='egg:early_of_a_test')
        os.chmod(tmp_path, 0o777)
        with pytest.raises(ConfigError, match='others than root can write'):
            refuse_untrusted(config)

    def test_an_egg_whose_module_root_does_not_find_is_refused(
        self, conf, monkeypatch, tmp_path, request
    ):
        safe = tempfile.mkdtemp(prefix='wspbus-', dir='/root')
        request.addfinalizer(lambda: shutil.rmtree(safe))
        config = conf(privileges='egg:early_of_a_test')
        shutil.move(tmp_path / 'early_of_a_test-1.0.dist-info', safe)
        monkeypatch.syspath_prepend(safe)
        sys.path.remove(str(tmp_path))  # the folder of the .ini: after the change only
        with pytest.raises(
            ConfigError, match='root finds no module defaults_of_a_test'
        ):
            refuse_untrusted(config)

    def test_nothing_is_imported_for_that(self, conf):
        with pytest.raises(ConfigError):
            refuse_untrusted(conf(privileges=f'{OURS}:early'))
        assert 'defaults_of_a_test' not in sys.modules

    def test_plugins_act_later(self, conf):
        refuse_untrusted(conf(threads=f'{OURS}:plugin'))

    def test_the_command_refuses_code_that_others_can_change(self, tmp_path):
        (tmp_path / 'mine.py').write_text('raise SystemExit("imported as root")\n')
        (tmp_path / 'site.ini').write_text(
            '[wspbus:main]\nprivileges = call:mine:x\n'
            '[app:main]\nuse = egg:paste_wspbus#hello\n'
        )
        words = ['site.ini', '--user', 'nobody', '--listen', '127.0.0.1:0']
        process = run(tmp_path, *words)
        assert process.code == 2
        assert process.err.text.startswith(
            'site.ini [wspbus:main] privileges: it acts as'
        )


def test_global_conf_is_that_of_other_factories(conf, tmp_path):
    (tmp_path / 'conf_of_a_test.py').write_text(
        'def make(default, global_conf):\n    return lambda: dict(global_conf)\n'
    )
    config = conf(logging='call:conf_of_a_test:make')
    with open(config.file, 'a') as ini:
        ini.write('[DEFAULT]\nname = %(here)s/x\nvar = of the file\n')
    config = Config(config.file, {'var': 'of the command'}, str(tmp_path))
    made = replaced(config, 'logging', None)()
    assert made == {
        'here': str(tmp_path),
        '__file__': config.file,
        'name': f'{tmp_path}/x',
        'var': 'of the command',
    }
    sys.modules.pop('conf_of_a_test', None)

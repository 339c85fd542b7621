"""Sites under Apache's mod_wsgi, Debian's and PyPI's, as runners for tests/hosts/promises.py.

Apache runs in the foreground, as an unprivileged user, from a configuration in a folder
of its own: the user's, for what the tests' folders are in may be closed to it.
"""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.environments import ROOT, environment
from tests.hosts.promises import Runner
from tests.kit import Process, eventually

#: Where .ci/apache installs them.
APACHE = '/usr/sbin/apache2'
MODULES = Path('/usr/lib/apache2/modules')

CONFIGURATION = """\
ServerRoot "{home}"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {home}/apache.pid
DefaultRuntimeDir {home}
Mutex file:{home} default
ErrorLog {home}/error.log
LogLevel info
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {module}
StartServers 1
MinSpareThreads 1
ServerLimit 2
ThreadsPerChild 16
MaxRequestWorkers 32
GracefulShutdownTimeout 20
WSGISocketPrefix {home}/wsgi
Define SITE {home}
{site}
"""

#: Instead of sample_ini/apache/site.conf: Apache's own processes are the site's.
EMBEDDED = """\
WSGIPythonHome ${SITE}/venv
WSGIApplicationGroup %{GLOBAL}
WSGIScriptAlias / ${SITE}/site.wsgi
<Directory ${SITE}>
  Require all granted
</Directory>
"""


def not_root():
    """What makes a child of root an ordinary user's: arguments of subprocess.Popen."""
    if os.geteuid():
        return {}
    return {'user': 'nobody', 'group': 'nogroup', 'extra_groups': []}


class Apache(Runner):
    """Debian's mod_wsgi in daemon mode; a reload is Apache's graceful restart."""

    title = 'mod_wsgi 4.9, daemon mode'
    environment = 'mod_wsgi'
    module = MODULES / 'mod_wsgi.so'
    site = (ROOT / 'sample_ini' / 'apache' / 'site.conf').read_text()

    def __init__(self, folder):
        super().__init__(folder)
        self.home = Path(tempfile.mkdtemp(prefix='wspbus-apache-'))

    def command(self):
        return [APACHE, '-d', self.home, '-f', 'httpd.conf', '-DFOREGROUND']

    def start(self):
        self.prepare()
        self.run()
        eventually(self.answers)

    def prepare(self):
        """Copy the site, with what it is to import, to where Apache may read it."""
        (self.home / 'events').touch()
        (self.folder / 'events').unlink(missing_ok=True)
        (self.folder / 'events').symlink_to(self.home / 'events')
        for file in self.folder.iterdir():
            if file.is_file() and not file.is_symlink():
                shutil.copy(file, self.home)
        if not (self.home / 'site.wsgi').exists():
            shutil.copy(ROOT / 'sample_ini' / 'apache' / 'site.wsgi', self.home)
        self._make_venv(environment(self.environment) / 'debian')
        self.configure()
        if not_root():
            for path in [self.home, *self.home.iterdir()]:
                shutil.chown(path, 'nobody', 'nogroup')

    def configure(self):
        text = CONFIGURATION.format(
            home=self.home,
            port=self.port,
            modules=MODULES,
            module=self.module,
            site=self.site,
        )
        (self.home / 'httpd.conf').write_text(text)

    def _make_venv(self, made):
        packages = 'lib/python3.11/site-packages'
        target = self.home / 'venv'
        left_out = shutil.ignore_patterns(
            'pip*', 'setuptools*', 'pkg_resources', '__editable__*', '__pycache__'
        )
        shutil.copytree(made / packages, target / packages, ignore=left_out)
        shutil.copytree(
            ROOT / 'paste_wspbus', target / packages / 'paste_wspbus', ignore=left_out
        )
        shutil.copy(made / 'pyvenv.cfg', target)
        (target / 'bin').mkdir()
        (target / 'bin' / 'python').symlink_to('/usr/bin/python3')

    def run(self):
        self.process = Process(self.command(), self.home, **not_root())

    def reload(self):
        self.process.send(signal.SIGUSR1)

    def stop(self):
        self.process.send(signal.SIGWINCH)
        code = self.process.wait()
        eventually(self.process.has_left_nothing)
        return code

    def close(self):
        super().close()
        shutil.rmtree(self.home)

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.home / 'error.log').read_text()
        return ''


class Newest(Apache):
    """PyPI's."""

    title = 'mod_wsgi 6.1, daemon mode'

    def prepare(self):
        made = environment(self.environment) / 'debian' / 'lib' / 'python3.11'
        (built,) = made.glob('site-packages/mod_wsgi/server/mod_wsgi*.so')
        self.module = shutil.copy(built, self.home)
        super().prepare()


class Embedded(Apache):
    title = 'mod_wsgi 4.9, embedded mode'
    site = EMBEDDED


RUNNERS = {'mod_wsgi-debian': Apache, 'mod_wsgi-pypi': Newest}

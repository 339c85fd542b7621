"""Sites under zdaemon: its commands, and runners for tests/hosts/promises.py."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.hosts.promises import Runner
from tests.kit import TIMEOUT, eventually
from tests.kit.places import ROOT

#: The manager of this package's, as zdaemon.conf names it.
ZDRUN = ROOT / 'paste_wspbus' / 'hosts' / 'zdrun.py'


class Zdaemon:
    """A site under zdaemon; `with` ends whatever is left of it."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, Path(folder)
        # Whatever comes of it can be found by this.
        self.mark = f'ZDAEMON_OF={folder}'
        name, _, value = self.mark.partition('=')
        path = os.pathsep.join([str(programs), os.environ.get('PATH', os.defpath)])
        self.env = {**os.environ, name: value, 'PATH': path}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while left := list(self.processes()):  # one may have started another
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self):
        """The IDs of all that was started."""
        for folder in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if f'{self.mark}\0' in (folder / 'environ').read_text():
                    yield int(folder.name)

    def popen(self, *words, module=False, **kwargs):
        command = [self.programs / 'zdaemon']
        if module:
            command = [self.programs / 'python', '-m', 'paste_wspbus.hosts.zdaemon']
        return subprocess.Popen(
            [*command, '-C', 'zdaemon.conf', *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **kwargs,
        )

    def __call__(self, *words, **kwargs):
        """Run a command of zdaemon's: what it printed."""
        with self.popen(*words, **kwargs) as process:
            try:
                output, _ = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        self.code = process.returncode
        return output

    def status(self):
        lines = re.findall(r'^([\w.]+)=(.*)$', self('status', '-l'), re.M)
        return {name: value for name, value in lines}

    @property
    def pid(self):
        return int(self.status().get('application', 0))

    def text(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ''

    def is_gone(self):
        return not list(self.processes())

    def report(self):
        names = ('journal', 'transcript', 'site.log', 'zdaemon.log')
        return '\n'.join(f'{name}:\n{self.text(name)}' for name in names)


CONF = """\
<runner>
  program {wspserve} site.ini --listen 127.0.0.1:{port}
  directory {folder}
  socket-name {folder}/zdsock
  transcript {folder}/transcript
  stop-timeout 60
  {extra}
</runner>
"""


class Program(Runner):
    """`wspserve` is what zdaemon starts."""

    title = 'zdaemon, wspserve its program'
    environment = 'zope'
    extra = ''

    def __init__(self, folder):
        super().__init__(folder)
        wspserve = self.bin('wspserve')
        self.zdaemon = Zdaemon(wspserve.parent, folder)
        values = {'wspserve': wspserve, 'port': self.port, 'folder': folder}
        conf = CONF.format(extra=self.extra, **values)
        (self.folder / 'zdaemon.conf').write_text(conf)

    def start(self):
        self.zdaemon('start')
        eventually(self.answers)

    def reload(self):
        os.kill(self.zdaemon.pid, signal.SIGHUP)  # zdaemon kill HUP

    def stop(self):
        said = self.zdaemon('stop')
        eventually(self.zdaemon.is_gone)
        return 0 if 'daemon process stopped' in said else 1

    def close(self):
        self.zdaemon.__exit__()

    def log(self):
        return self.zdaemon.text('transcript')


class Site(Program):
    """zdaemon's manager makes and starts the bus."""

    title = 'zdaemon, with its runner'
    extra = f'zdrun {ZDRUN}'


RUNNERS = {'zdaemon': Program, 'zdaemon-runner': Site}

"""A container without a container runtime: the steps of a Dockerfile, in namespaces."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.kit.places import ROOT
from tests.kit.processes import BIN, TIMEOUT, Process, children
from tests.kit.typed import check_installed

#: Its root is that of this machine, read-only, with a /tmp of its own, and the folders that
#: follow: Python's and the site's. The command runs as process 1.
RUN = """
set -eu
root=$1 image=$2 folder=$3 user=$4; shift 4
mount --make-rprivate /
mount --bind / "$root"
mount -o remount,bind,ro "$root"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for path in "$folder" $PATHS; do
  top=/$(echo "$path" | cut -d / -f 2)
  [ $top = /usr ] && continue
  mountpoint -q "$root$top" || mount -t tmpfs -o mode=755 tmpfs "$root$top"
  mkdir -p "$root$path"
done
for path in $PATHS; do
  case $path in /usr/*|/usr) continue; esac
  mount --bind "$path" "$root$path"
  mount -o remount,bind,ro "$root$path"
done
mount --bind "$image" "$root$folder"
mount -o remount,bind,ro "$root$folder"
exec chroot --userspec="$user" --groups= "$root" env --chdir="$folder" "$@"
"""


def instructions(text):
    """Yield the instructions of a Dockerfile: (word, the rest)."""
    text = re.sub(r'(?m)^#.*\n', '', text).replace('\\\n', ' ')
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        yield word, rest


class Image:
    """What the instructions of a Dockerfile make; `folder` has the files of its WORKDIR."""

    def __init__(self, context, folder):
        self.context, self.folder = Path(context), Path(folder)
        self.env, self.said = {}, {}
        for word, rest in instructions((self.context / 'Dockerfile').read_text()):
            getattr(self, f'_do_{word.lower()}', self._note)(rest, word)

    def _note(self, rest, word):
        self.said[word] = rest

    _do_from = _note

    def _do_copy(self, rest, word):
        *sources, target = rest.split()
        assert target == './'
        for source in sources:
            for path in self.context.glob(source):
                shutil.copy(path, self.folder)

    def _do_env(self, rest, word):
        self.env.update(one.split('=', 1) for one in rest.split())

    def _do_run(self, rest, word):
        if rest.startswith('pip install '):
            check_installed((self.folder / 'requirements.txt').read_text())
        else:
            words = [sys.executable, *rest.removeprefix('python ').split()]
            subprocess.run(words, cwd=self.folder, check=True, timeout=TIMEOUT)

    @property
    def command(self):
        """The words of CMD, which is in the form without a shell."""
        return json.loads(self.said['CMD'])

    @property
    def health(self):
        """The words of the command of HEALTHCHECK."""
        return json.loads(self.said['HEALTHCHECK'].partition(' CMD ')[2])


class Container(Process):
    """A container of an image: `docker run --read-only --tmpfs /tmp`."""

    def __init__(self, image, root, env=None):
        self.image = image
        Path(root).mkdir()
        # The checkout may hold the environment, or the other way round: outer ones first.
        paths = sorted({str(ROOT), sys.prefix, sys.base_prefix})
        self._env = {
            'PATH': f'{BIN}:/usr/bin:/bin',
            **image.env,
            **(env or {}),
        }
        words = ['unshare', '--mount', '--pid', '--fork', '--kill-child']
        where = [root, image.folder, image.said['WORKDIR'], image.said['USER']]
        super().__init__(
            [*words, 'sh', '-c', RUN, 'sh', *where, *self._inside(image.command)],
            image.folder,
            {'PATHS': ' '.join(paths)},
        )

    def _inside(self, words):
        return ['env', '-i', *(f'{k}={v}' for k, v in self._env.items()), *words]

    @property
    def first(self):
        """The number of its process 1, outside."""
        (pid,) = children(self.pid)
        return pid

    def exec(self, words):
        """Run a command in it, as `docker exec` does; return what has become of it."""
        user, _, group = self.image.said['USER'].partition(':')
        enter = ['nsenter', '-t', self.first, '-m', '-p', '-r', '-S', user, '-G', group]
        folder = f'--chdir={self.image.said["WORKDIR"]}'
        words = [*map(str, enter), 'env', folder, *self._inside(words)[1:]]
        return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)

    def stop(self):
        """Send STOPSIGNAL to process 1, as `docker stop` does, and return its exit code."""
        os.kill(self.first, signal.Signals[self.image.said['STOPSIGNAL']])
        return self.wait()

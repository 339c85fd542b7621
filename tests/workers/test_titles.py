"""unix/titles.py: what ps(1) shows of a supervisor and its processes."""

from pathlib import Path

from tests.kit import eventually
from tests.kit.processes import children
from tests.kit.workers import Workers


def title_of(pid):
    return Path(f'/proc/{pid}/cmdline').read_bytes().rstrip(b'\0').decode()


def test_ps_shows_what_each_process_is_for(tmp_path):
    with Workers(tmp_path, count=2) as site:
        wanted = {'wspserve: worker 1 site.ini', 'wspserve: worker 2 site.ini'}
        assert title_of(site.pid) == 'wspserve: supervisor site.ini'
        eventually(lambda: {title_of(pid) for pid in children(site.pid)} == wanted)

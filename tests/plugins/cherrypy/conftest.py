"""Fixtures of the tests of CherryPy: child processes."""

import pytest

from tests.kit.cherrypys import Child, program


@pytest.fixture
def spawn(tmp_path):
    """Start ``python *argv`` in tmp_path, as often as you like."""
    children = []

    def spawn(*argv, pass_fds=(), **env):
        child = Child(argv, tmp_path, env, pass_fds)
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.kill()


@pytest.fixture
def site(spawn, tmp_path):
    """Start a child that makes a bus and plugins and does what the source says."""

    def site(source, *argv, **options):
        script = tmp_path / 'site_script.py'
        script.write_text(program(source))
        return spawn('site_script.py', *argv, **options)

    return site

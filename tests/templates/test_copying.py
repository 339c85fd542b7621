"""The samples, and their copies."""

import re

import pytest

from paste_wspbus.errors import UsageError
from paste_wspbus.templates.copying import copy_sample, samples
from tests.kit.places import SAMPLES

#: What stands before a colon, and is no module of a sample.
OTHERS = {'call', 'egg', 'redis', 'sqlite', 'unix'}


def test_each_ini_of_the_folder_is_a_sample():
    names = {path.stem for path in SAMPLES.glob('*.ini')}
    folders = {path.parent.name for path in SAMPLES.glob('*/*.ini')}
    assert set(samples()) == names | folders
    assert all(sample.summary for sample in samples().values())


@pytest.mark.parametrize('sample', samples().values(), ids=lambda one: one.name)
def test_a_copy_has_what_its_ini_names(tmp_path, sample):
    target = tmp_path / ('site' if sample.is_folder else 'site.ini')
    made = copy_sample(sample, str(target))
    folder = target if sample.is_folder else tmp_path
    assert {folder.joinpath(one) for one in made} == set(folder.iterdir())
    (ini,) = folder.glob('*.ini')
    named = set(re.findall(r'= (?:call:)?(\w+):[A-Za-z_]', ini.read_text()))
    files = {path.stem for path in folder.glob('*.py')}
    assert named - files - OTHERS == set()


def test_a_sample_is_copied_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'shop.py').write_text('mine')
    with pytest.raises(UsageError, match=r'^shop\.py exists: nothing was written$'):
        copy_sample(samples()['shop'], None)
    assert [path.name for path in tmp_path.iterdir()] == ['shop.py']


def test_two_samples_share_a_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert copy_sample(samples()['workers'], None)[-1] == 'visits.py'
    assert copy_sample(samples()['development'], None) == ['development.ini']


def test_the_name_of_a_folder_may_end_with_a_slash(tmp_path):
    made = copy_sample(samples()['cluster'], f'{tmp_path}/many/')
    assert f'{tmp_path}/many/site.ini' in made


def test_files_that_cannot_be_written_leave_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = iter([None, OSError(28, 'No space left on device')])
    opened = open

    def failing(*args, **kwargs):
        file = opened(*args, **kwargs)
        if 'x' in args and (error := next(written)):
            file.close()
            raise error
        return file

    monkeypatch.setattr('builtins.open', failing)
    with pytest.raises(UsageError, match=r'pool\.py cannot be made: no space left'):
        copy_sample(samples()['shop'], None)
    assert 'shop.ini' not in [path.name for path in tmp_path.iterdir()]

"""The folders whose changes the kernel does not report are known by their file systems."""

import pytest

from paste_wspbus.watching.mounts import silent_file_system

LINES = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / {folder}/code rw - {kind} source rw
31 22 0:41 / {folder}/code/local rw master:3 - tmpfs tmpfs rw
32 22 0:42 / {folder}/my\040code rw - 9p source rw
a line that is wrong
"""


@pytest.fixture
def mounts(tmp_path):
    def write(kind):
        path = tmp_path / 'mountinfo'
        path.write_text(
            LINES.replace('{folder}', str(tmp_path)).replace('{kind}', kind)
        )
        return str(path)

    for folder in ('code/deep', 'code/local', 'my code', 'codes'):
        (tmp_path / folder).mkdir(parents=True)
    return write


@pytest.mark.parametrize(
    'kind', ['9p', 'vboxsf', 'drvfs', 'nfs', 'nfs4', 'cifs', 'fuse', 'fuse.grpcfuse']
)
def test_a_file_system_that_reports_nothing_is_named(kind, mounts, tmp_path):
    assert silent_file_system(str(tmp_path / 'code/deep'), mounts(kind)) == kind


@pytest.mark.parametrize('kind', ['ext4', 'overlay', 'virtiofs', 'fuse.gvfsd-fuse'])
def test_a_file_system_that_reports_changes_is_not_named(kind, mounts, tmp_path):
    assert silent_file_system(str(tmp_path / 'code'), mounts(kind)) == ''


def test_the_innermost_mount_counts(mounts, tmp_path):
    path = mounts('nfs')
    assert silent_file_system(str(tmp_path / 'code/local'), path) == ''
    assert silent_file_system(str(tmp_path / 'codes'), path) == ''
    assert silent_file_system(str(tmp_path / 'my code'), path) == '9p'


def test_a_link_counts_as_what_it_leads_to(mounts, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'code')
    assert silent_file_system(str(tmp_path / 'link'), mounts('nfs')) == 'nfs'


def test_without_proc_nothing_is_known(tmp_path):
    assert silent_file_system(str(tmp_path), str(tmp_path / 'missing')) == ''

"""Users and groups: how a process changes its user and group for ever."""

from __future__ import annotations

import contextlib
import os

from paste_wspbus.errors import UsageError, WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator


class PrivilegesKept(WSPBusError):
    """After the change of user, the process could still become root again."""


class Identity:
    """The user and group to which a process changes, given by name or number.

    ``uid`` and ``gid`` are their numbers. None stands for no change.

    :raises UsageError: if there is no such user or group, or if this process is not root
        and would have to change.
    """

    def __init__(self, user: str | int | None, group: str | int | None) -> None:
        self.uid: int | None = None
        self.gid: int | None = None
        self.name: str | None = None
        self._home = '/'
        if not hasattr(os, 'setresuid') and (user, group) != (None, None):
            raise UsageError('--user and --group: this system has no setresuid(2)')
        if user is not None:
            self._find_user(user)
        if group is not None:
            self.gid = _find_group(group)
        if user is not None and self.gid is None:
            raise UsageError(
                f'--user {user}: this number is not in the passwd database, so its group is '
                'not known: add --group'
            )
        self._check_root(user, group)

    def _find_user(self, user: str | int) -> None:
        import pwd

        try:
            number = _number(user)
            entry = pwd.getpwnam(str(user)) if number is None else pwd.getpwuid(number)
        except (KeyError, ValueError):
            if number is None:
                raise UsageError(f'--user {user}: there is no such user') from None
            self.uid = number
        else:
            self.uid, self.gid, self.name = entry.pw_uid, entry.pw_gid, entry.pw_name
            self._home = entry.pw_dir

    def _check_root(self, user: str | int | None, group: str | int | None) -> None:
        if os.geteuid() == 0 or self.is_current:
            return
        option = f'--user {user}' if user is not None else f'--group {group}'
        raise UsageError(f'{option}: only root can become another user or group')

    @property
    def is_current(self) -> bool:
        """Whether the process has this user and group already."""
        return self.uid in (None, os.geteuid()) and self.gid in (None, os.getegid())

    def take(self) -> None:
        """Change supplementary groups, group and user, in this order, and verify it.

        This also sets HOME, USER and LOGNAME for the user.

        :raises PrivilegesKept: if the process still has other privileges afterwards.
        """
        if os.geteuid() != 0:
            return
        if self.uid:
            from paste_wspbus.unix.exposed import forget_folders

            forget_folders()
        if self.gid is not None:
            if self.name is not None:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
        if self.uid is not None:
            os.setresuid(self.uid, self.uid, self.uid)
            self._tell_environment()
        self.verify()

    def _tell_environment(self) -> None:
        """Set HOME, USER and LOGNAME for this user: the site must not look for root's files."""
        os.environ['HOME'] = self._home
        for variable in ('USER', 'LOGNAME'):
            if self.name is not None:
                os.environ[variable] = self.name
            else:
                os.environ.pop(variable, None)

    @contextlib.contextmanager
    def borrowed(self) -> Generator[None]:
        """Act as this user inside the ``with`` block, and as root again afterwards.

        Root uses it while it communicates with a process of another user.
        """
        if os.geteuid() != 0 or not self.uid:
            yield
            return
        gid = os.getegid() if self.gid is None else self.gid
        groups, group = os.getgroups(), os.getegid()
        os.setgroups([gid])
        os.setegid(gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)

    def verify(self) -> None:
        """Check that this process has this user and group for ever.

        :raises PrivilegesKept: if it has not.
        """
        if self.gid is not None and set(os.getresgid()) != {self.gid}:
            raise PrivilegesKept(f'the group did not become {self.gid}')
        if self.uid is None:
            return
        if set(os.getresuid()) != {self.uid}:
            raise PrivilegesKept(f'the user did not become {self.uid}')
        if self.uid != 0:
            if 0 in os.getgroups() and self.gid != 0 and not self._is_in_group_0():
                raise PrivilegesKept('the process is still in group 0')
            try:
                os.setuid(0)
            except PermissionError:
                return
            raise PrivilegesKept('the process can become root again')

    def _is_in_group_0(self) -> bool:
        return self.name is not None and 0 in os.getgrouplist(self.name, self.gid or 0)


def _number(text: str | int) -> int | None:
    """Return a user's or group's number; None if the text cannot be such a number."""
    word = str(text)
    if not (word.isascii() and word.isdecimal()):
        return None
    # For chown(2) and setresuid(2), the last number, (uid_t)-1, means no change.
    return int(word) if len(word) <= 10 and int(word) < 2**32 - 1 else None


def _find_group(group: str | int) -> int:
    import grp

    try:
        number = _number(group)
        return grp.getgrnam(str(group)).gr_gid if number is None else number
    except (KeyError, ValueError):
        raise UsageError(f'--group {group}: there is no such group') from None


def name_of(uid: int) -> str:
    """Return the name of a user; the number if it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

"""What somebody may put in the place of a file; links lead to ``target``."""

import os
import socket


def make_link(path, target):
    path.symlink_to(target)


def make_hard_link(path, target):
    path.hardlink_to(target)


def make_fifo(path, target):
    os.mkfifo(path)


def make_folder(path, target):
    path.mkdir()


def make_socket(path, target):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))

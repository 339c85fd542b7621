"""Stacks as data: of this process, or as `faulthandler` has written those of another one."""

from __future__ import annotations

import re
from typing import NamedTuple

from paste_wspbus.bus.places import is_of_site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType


class Frame(NamedTuple):
    """One call of a stack: its source file, the line (0 if it is not known), the function."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f'{self.file} line {self.line} in {self.name}'


_HEADER = 'Stack (most recent call first):'
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)').fullmatch


def parse(text: str) -> list[Frame]:
    """Read the stack of a thread as `faulthandler` writes it; it may be nonsense.

    :returns: the frames, the innermost first, 100 at most; of several stacks the last one.
    """
    frames: list[Frame] = []
    for line in text.splitlines():
        if line == _HEADER:
            frames = []
        elif frame := _FRAME(line):
            number = int(frame[2]) if frame[2].isdigit() else 0
            frames.append(Frame(_printable(frame[1]), number, _printable(frame[3])))
    return frames


def _printable(text: str) -> str:
    return ascii(text)[1:-1].replace('\\\\', '\\')


def frames_of(frame: FrameType | None) -> list[Frame]:
    """Return the stack of a thread of this process, the innermost frame first."""
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return frames


def of_site(frames: Iterable[Frame]) -> list[Frame]:
    """Return the frames of the site's own code (`bus.places.is_of_site`)."""
    return [frame for frame in frames if is_of_site(frame.file)]


def trimmed(frames: list[Frame]) -> list[Frame]:
    """Return what is worth showing of a stack: the innermost frame, then those of the site."""
    own = of_site(frames)
    return own if own[:1] == frames[:1] else [*frames[:1], *own]


def innermost(frames: list[Frame]) -> Frame | None:
    """Return the innermost frame of the site's own code, or else that of all."""
    return next(iter([*of_site(frames), *frames]), None)


def text_of(frames: Iterable[Frame]) -> str:
    """Return a line for each frame, for the log."""
    return '\n'.join(
        f'  File "{one.file}", line {one.line}, in {one.name}' for one in frames
    )

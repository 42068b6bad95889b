"""Server-sent events out of bytes that arrive in any pieces.

Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream": lines end in LF, CR or CRLF, lines that begin
with a colon are comments, and several data lines make one event. Unlike there, `close` still gives an event that no
empty line has ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from workbench.decide.classify import error_of

BOM = b"\xef\xbb\xbf"


class EventStream:
    """A parser that keeps what is not a whole line yet; `feed` gives the data of each whole event as bytes.

    longest: bytes one event may have; LLMProviderError provider.too_large beyond.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._pieces: list[bytes] = []  # of a line that goes on
        self._waiting = 0
        self._data: list[bytes] = []
        self._size = 0
        self._started = False
        self._cr = False
        self.torn = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of the events that the chunk completes."""
        self._pieces.append(chunk)
        self._waiting += len(chunk)
        self._check(self._waiting)
        if b"\n" not in chunk and b"\r" not in chunk and not self._cr and self._started:
            return  # joined once, when the line ends: a long line in small pieces costs no more than in one
        lines = b"".join(self._pieces).splitlines(keepends=True)
        if not self._started and lines:
            if len(lines[0]) < 3 and BOM.startswith(lines[0]):
                return
            self._started = True
            lines[0] = lines[0].removeprefix(BOM)
        # The last line may go on; so may a CR, with the LF of a CRLF.
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        self._pieces, self._waiting, self._cr = [rest], len(rest), rest.endswith(b"\r")
        for line in lines:
            yield from self._line(line.rstrip(b"\r\n"))

    def close(self) -> Iterator[bytes]:
        """The event that a stream without a last empty line still holds: some servers leave it out.

        `torn` says of it whether its last line had no end.
        """
        rest = b"".join(self._pieces)
        self._pieces, self._waiting = [], 0
        for line in rest.splitlines(keepends=True):
            self.torn = not line.endswith((b"\r", b"\n"))
            yield from self._line(line.rstrip(b"\r\n"))
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[bytes]:
        if not line:
            if self._data:
                yield b"\n".join(self._data)
            self._data, self._size = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value)
            self._check(self._size)
            self._data.append(value)

    def _check(self, size: int) -> None:
        if size > self._longest:
            raise error_of("provider.too_large", f"one event of the stream has more than {self._longest} bytes")

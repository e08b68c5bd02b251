"""The stream between us and a container's stdin, stdout and stderr."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["STDOUT", "Attachment", "Demultiplexer", "Lines"]

STDOUT = 1
CHUNK = 65536
# What a line of a well-meant program never reaches; a hostile one must not fill our memory.
LONGEST_LINE = 2**20
# The daemon holds back input that may begin its "detach" keys, ctrl-p by default, which every shell
# uses; nobody types this one.
DETACH_KEYS = "ctrl-^,ctrl-@,ctrl-^,ctrl-@"

Frame = tuple[int, bytes]


class Attachment:
    """Attach before the start, so that nothing is lost; closing it ends the container's stdin."""

    def __init__(self, client: DockerClient, container: str, *, tty: bool) -> None:
        params: dict[str, Any] = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._raw = client.api.attach_socket(container, {**params, "detachKeys": DETACH_KEYS})
        # docker-py gives a read-only wrapper for plain sockets, the thing itself for TLS and ssh.
        self._socket = getattr(self._raw, "_sock", self._raw)
        self._socket.settimeout(None)
        self._split = None if tty else Demultiplexer()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_input(self) -> None:
        with contextlib.suppress(OSError):
            if isinstance(self._socket, ssl.SSLSocket):
                # Its own shutdown would end the decryption of what still comes.
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
            else:
                self._socket.shutdown(socket.SHUT_WR)

    def receive(self) -> list[Frame] | None:
        """What came, in order; None at the end. Waits for something."""
        try:
            data = self._socket.recv(CHUNK)
        except OSError:  # the daemon is gone: the same end, for the container's state to explain
            data = b""
        if not data:
            return None
        return self._split.feed(data) if self._split else [(STDOUT, data)]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # docker-py keeps the response with the socket; closing it closes both.
        getattr(self._raw, "_response", self._raw).close()


class Demultiplexer:
    """Docker's framing: stream number, three zeros, length; payloads are given on as they come."""

    def __init__(self) -> None:
        self._buffer = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while self._buffer:
            if self._left:
                chunk = self._buffer[: self._left]
                frames.append((self._stream, chunk))
                self._left -= len(chunk)
                self._buffer = self._buffer[len(chunk) :]
            elif len(self._buffer) >= 8:
                self._stream, self._left = struct.unpack(">BxxxL", self._buffer[:8])
                self._buffer = self._buffer[8:]
            else:
                break
        return frames


class Lines:
    """Whole lines of a stream that comes in pieces; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode("utf-8", "replace") for line in whole]

    def flush(self) -> list[str]:
        """The last line, where it has no newline."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []

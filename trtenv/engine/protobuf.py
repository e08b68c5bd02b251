"""Walks protobuf bytes without a schema and without loading them: payloads are skipped, not read.

Bounded in what hostile bytes can cost: the number of fields and the bytes of text taken are limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

VARINT: Final = 0
BYTES: Final = 2

# One read serves a run of small fields; after each skipped payload another is needed, so a model
# costs about this much per tensor.
_BLOCK: Final = 4096
# A field's key and value or length: two varints of at most ten bytes.
_LONGEST_HEAD: Final = 20
_MOST_FIELDS: Final = 2_000_000
_MOST_TEXT: Final = 16 << 20


class Source(Protocol):
    """Bytes that can be read anywhere: a file, or part of one."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class Malformed(ValueError):
    """No protobuf, or damaged; `missing` is how many bytes the payload of field `number` lacks."""

    def __init__(self, message: str, *, number: int = 0, missing: int = 0) -> None:
        super().__init__(message)
        self.number = number
        self.missing = missing


class Field(NamedTuple):
    """`value` of a number; `start` and `end` of the payload of anything with a length."""

    number: int
    wire: int
    value: int
    start: int
    end: int

    @property
    def signed(self) -> int:
        return self.value - (1 << 64) if self.value >> 63 else self.value


class Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._block = b""
        self._base = 0
        self._fields = 0
        self._text = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        position = start
        while position < end:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise Malformed(f"more than {_MOST_FIELDS} fields")
            field = self._field(position, end)
            yield field
            position = field.end

    def of(self, field: Field) -> Iterator[Field]:
        """The fields of the message that `field` holds."""
        if field.wire != BYTES:
            raise Malformed(f"byte {field.start}: field {field.number} is no message")
        return self.fields(field.start, field.end)

    def raw(self, field: Field, most: int = _MOST_TEXT) -> bytes:
        length = min(field.end - field.start, most) if field.wire == BYTES else 0
        self._text += length
        if self._text > _MOST_TEXT:
            raise Malformed(f"more than {_MOST_TEXT} bytes of names and text")
        return self._read(field.start, length)

    def text(self, field: Field) -> str:
        return self.raw(field).decode("utf-8", "replace")

    def scan(self, field: Field, words: tuple[bytes, ...], most: int) -> bool:
        """Whether a small payload holds one of `words`; True, unread, for a larger one."""
        length = field.end - field.start
        if length > most:
            return True
        payload = self._read(field.start, length)
        return any(word in payload for word in words)

    def _field(self, position: int, end: int) -> Field:
        head = self._read(position, min(_LONGEST_HEAD, end - position))
        key, used = _varint(head, 0, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise Malformed(f"byte {position}: field number 0")
        match wire:
            case 0:  # VARINT
                value, used = _varint(head, used, position)
                return Field(number, wire, value, position + used, position + used)
            case 1 | 5:
                size = 8 if wire == 1 else 4
                if used + size > len(head):
                    raise Malformed(f"byte {position}: a number is cut short")
                value = int.from_bytes(head[used : used + size], "little")
                return Field(number, wire, value, position + used, position + used + size)
            case 2:  # BYTES
                length, used = _varint(head, used, position)
                start = position + used
                if start + length > end:
                    raise Malformed(
                        f"byte {position}: field {number} should go on for {length} bytes",
                        number=number,
                        missing=start + length - end,
                    )
                return Field(number, wire, length, start, start + length)
            case _:
                raise Malformed(f"byte {position}: wire type {wire}")

    def _read(self, offset: int, length: int) -> bytes:
        at = offset - self._base
        if at >= 0 and at + length <= len(self._block):
            return self._block[at : at + length]
        if length > _BLOCK:
            return self._source.read_at(offset, length)
        self._base = offset
        self._block = self._source.read_at(offset, min(_BLOCK, self._source.size - offset))
        return self._block[:length]


def _varint(head: bytes, used: int, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if used >= len(head):
            raise Malformed(f"byte {position}: a number is cut short")
        byte = head[used]
        used += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, used
    raise Malformed(f"byte {position}: a number of more than ten bytes")

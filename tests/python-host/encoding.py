"""Values to bytes and back: docs/protocol.md, "Encoding".

A structure is a dict, a list a list, an optional value None or the value, 32 bytes are bytes. A
choice without fields is its name, one with fields a dict of its name and a dict of them. What is
not said in a structure is zero, empty or absent.
"""

from typing import Any


class Malformed(Exception):
    """Bytes that are not the value they should be."""


class Reader:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Malformed("the value is longer than its bytes")
        self.at += count
        return self.data[self.at - count : self.at]


class Type:
    """What all types can do."""

    def write(self, value: Any) -> bytes:
        raise NotImplementedError

    def read(self, reader: Reader) -> Any:
        raise NotImplementedError

    def zero(self) -> Any:
        raise NotImplementedError

    def decode(self, data: bytes) -> Any:
        """The value that uses all of `data`."""
        reader = Reader(data)
        value = self.read(reader)
        if reader.at != len(data):
            raise Malformed(f"{len(data) - reader.at} bytes too many after the value")
        return value


class Byte(Type):
    """u8, and bool with a `top` of 1."""

    def __init__(self, top: int = 255) -> None:
        self.top = top

    def write(self, value: int) -> bytes:
        if not 0 <= value <= self.top:
            raise ValueError(f"{value} is not between 0 and {self.top}")
        return bytes([value])

    def read(self, reader: Reader) -> int | bool:
        byte = reader.take(1)[0]
        if byte > self.top:
            raise Malformed(f"{byte} where 0 to {self.top} can be")
        return bool(byte) if self.top == 1 else byte

    def zero(self) -> int:
        return 0


class Number(Type):
    """u16, u32, u64, i32 and lengths: short where they are small."""

    MARKS = {251: 2, 252: 4, 253: 8}

    def __init__(self, bits: int, signed: bool = False) -> None:
        self.bits, self.signed = bits, signed

    def write(self, value: int) -> bytes:
        if self.signed:
            value = 2 * value if value >= 0 else -2 * value - 1
        if not 0 <= value < 1 << self.bits:
            raise ValueError(f"{value} does not fit {self.bits} bits")
        if value < 251:
            return bytes([value])
        mark, size = next((m, s) for m, s in self.MARKS.items() if value < 1 << 8 * s)
        return bytes([mark]) + value.to_bytes(size, "little")

    def read(self, reader: Reader) -> int:
        value = reader.take(1)[0]
        if value >= 251:
            if self.MARKS.get(value, 9) * 8 > self.bits:
                raise Malformed(f"no number of {self.bits} bits begins with {value}")
            value = int.from_bytes(reader.take(self.MARKS[value]), "little")
        if self.signed:
            return -(value + 1) // 2 if value % 2 else value // 2
        return value

    def zero(self) -> int:
        return 0


class Text(Type):
    def write(self, value: str) -> bytes:
        data = value.encode()
        return LENGTH.write(len(data)) + data

    def read(self, reader: Reader) -> str:
        try:
            return reader.take(LENGTH.read(reader)).decode()
        except UnicodeDecodeError as error:
            raise Malformed(str(error)) from error

    def zero(self) -> str:
        return ""


class Bytes32(Type):
    def write(self, value: bytes) -> bytes:
        if len(value) != 32:
            raise ValueError(f"{len(value)} bytes, not 32")
        return value

    def read(self, reader: Reader) -> bytes:
        return reader.take(32)

    def zero(self) -> bytes:
        return bytes(32)


class List(Type):
    def __init__(self, of: Type) -> None:
        self.of = of

    def write(self, value: list[Any]) -> bytes:
        return LENGTH.write(len(value)) + b"".join(map(self.of.write, value))

    def read(self, reader: Reader) -> list[Any]:
        # Every element of this protocol has a byte at least: a length that lies ends soon.
        return [self.of.read(reader) for _ in range(LENGTH.read(reader))]

    def zero(self) -> list[Any]:
        return []


class Optional(Type):
    def __init__(self, of: Type) -> None:
        self.of = of

    def write(self, value: Any) -> bytes:
        return b"\0" if value is None else b"\1" + self.of.write(value)

    def read(self, reader: Reader) -> Any:
        return self.of.read(reader) if BOOL.read(reader) else None

    def zero(self) -> None:
        return None


class Struct(Type):
    """Fields, in order."""

    def __init__(self, **fields: Type) -> None:
        self.fields = fields

    def write(self, value: dict[str, Any]) -> bytes:
        if unknown := value.keys() - self.fields.keys():
            raise ValueError(f"no such fields: {', '.join(sorted(unknown))}")
        return b"".join(kind.write(value.get(name, kind.zero())) for name, kind in self.fields.items())

    def read(self, reader: Reader) -> dict[str, Any]:
        return {name: kind.read(reader) for name, kind in self.fields.items()}

    def zero(self) -> dict[str, Any]:
        return {}


class Choice(Type):
    """Variants, by number from 0; those with fields have a structure."""

    def __init__(self, **variants: Struct | None) -> None:
        self.variants = list(variants.items())

    def write(self, value: str | dict[str, Any]) -> bytes:
        name, fields = (value, {}) if isinstance(value, str) else next(iter(value.items()))
        number = [variant for variant, _ in self.variants].index(name)
        struct = self.variants[number][1]
        return U32.write(number) + (struct.write(fields) if struct else b"")

    def read(self, reader: Reader) -> str | dict[str, Any]:
        number = U32.read(reader)
        if number >= len(self.variants):
            raise Malformed(f"there is no variant {number}")
        name, struct = self.variants[number]
        return {name: struct.read(reader)} if struct else name

    def zero(self) -> str | dict[str, Any]:
        name, struct = self.variants[0]
        return {name: {}} if struct else name


BOOL, U8 = Byte(1), Byte()
U16, U32, U64, LENGTH = Number(16), Number(32), Number(64), Number(64)
I32 = Number(32, signed=True)
TEXT = Text()

"""Holds messages.py against the pinned bytes, and docs/protocol.md against messages.py.

    golden.py BYTES DOCUMENT     src/wire/tests/golden.txt, docs/protocol.md

Each pinned frame is read and made again. In the document, the fields of each message and structure
have to be there in their order, with their types.
"""

import re
import sys
from pathlib import Path

import messages
from encoding import BOOL, I32, TEXT, U8, U16, U32, U64, List, Optional, Struct, Type
from messages import FROM_GUEST, FROM_HOST, HEADER, state_digest, tables_digest

TYPES = {message.number: message for message in FROM_GUEST + FROM_HOST}
# Rows of the document's tables.
ROWS = {
    "desired state": messages.STATE,
    "interface": messages.INTERFACE,
    "match": messages.MATCH,
    "ipv4": messages.IPV4,
    "ipv6": messages.IPV6,
    "address": messages.ADDRESS,
    "route": messages.ROUTE,
    "path route": messages.PATH_ROUTE,
    "hop": messages.HOP,
    "rule": messages.RULE,
    "dns": messages.DNS,
    "forward": messages.FORWARD,
    "host": messages.HOST,
    "tables": messages.TABLES,
    "endpoint": messages.ENDPOINT,
    "observed": messages.OBSERVED,
    "observed interface": messages.OBSERVED_INTERFACE,
}
SIMPLE = {BOOL: "bool", U8: "u8", U16: "u16", U32: "u32", U64: "u64", I32: "i32", TEXT: "text"}


def check_bytes(pinned: dict[str, bytes]) -> int:
    values, seen = {}, set()
    for name, data in pinned.items():
        if name.startswith(("streams_", "serial_", "digest_", "pin_", "public_")):
            continue
        length, number, version, reserved = HEADER.unpack_from(data)
        payload = data[HEADER.size :]
        assert (length, version, reserved) == (len(payload), 1, 0), f"{name}: its header is {data[:8].hex(' ')}"
        values[name] = TYPES[number].fields.decode(payload)
        again = TYPES[number].fields.write(values[name])
        assert again == payload, f"{name}: {again.hex()} in place of {payload.hex()}"
        seen.add(number)
    assert seen == set(TYPES), f"no frame of type {set(TYPES) - seen}"
    digests = {
        "digest_of_apply_state": state_digest(values["apply"]["state"]),
        "digest_of_apply_short_state": state_digest(values["apply_short"]["state"]),
        "digest_of_names_tables": tables_digest(values["names"]["tables"]),
    }
    for name, digest in digests.items():
        assert digest == pinned[name], f"{name}: {digest.hex()} in place of {pinned[name].hex()}"
    return len(values)


def spelled(kind: Type) -> str | None:
    """How the document says it; None for what it has another name for."""
    if isinstance(kind, List | Optional):
        of = spelled(kind.of)
        return of and ("list of " if isinstance(kind, List) else "optional ") + of
    return SIMPLE.get(kind)


def check_fields(where: str, told: str, fields: Struct) -> None:
    at = 0
    for name, kind in fields.fields.items():
        found = re.compile(rf"`{name}(?:`|: ([^`]*)`)").search(told, at)
        assert found, f"{where} has no {name} behind {told[:at][-40:]!r}"
        told_type, wanted = found[1], spelled(kind)
        assert not (told_type and wanted) or told_type == wanted, f"{where}: {name} is {told_type}, not {wanted}"
        at = found.end()


def check_document(document: str) -> None:
    for message in TYPES.values():
        name = "".join(word.capitalize() for word in message.name.split("_"))
        told = re.compile(rf"^[^\n|]*\*\*{name}\*\*.*?\n\n(?!\|)", re.DOTALL | re.MULTILINE).search(document)
        assert told, f"there is no {name}"
        begin = told[0].index(f"**{name}**")
        check_fields(name, " ".join(told[0][begin:].split()), message.fields)
    for row, fields in ROWS.items():
        told = re.compile(rf"^\| {row} \| (.*)$", re.MULTILINE).search(document)
        assert told, f"there is no {row}"
        check_fields(row, told[1], fields)


def main() -> None:
    data, document = (Path(path).read_text() for path in sys.argv[1:])
    lines = [line.split() for line in data.splitlines() if line and line[0] != "#"]
    count = check_bytes({name: bytes.fromhex(digits) for name, digits in lines})
    check_document(document)
    print(f"{count} frames, {len(TYPES)} messages and {len(ROWS)} structures agree")


main()

"""Reads each pinned frame of a file, makes it again, and compares the bytes.

    golden.py FILE      lines of a name and hexadecimal digits, as src/wire/tests/golden.txt has them
"""

import sys
from pathlib import Path

from messages import FROM_GUEST, FROM_HOST, HEADER, state_digest, tables_digest


def main() -> None:
    lines = [line.split() for line in Path(sys.argv[1]).read_text().splitlines() if line and line[0] != "#"]
    pinned = {name: bytes.fromhex(digits) for name, digits in lines}
    types = {message.number: message for message in FROM_GUEST + FROM_HOST}
    values, seen = {}, set()
    for name, data in pinned.items():
        if name.startswith(("streams_", "digest_", "pin_", "public_")):
            continue
        length, number, version, reserved = HEADER.unpack_from(data)
        payload = data[HEADER.size :]
        assert (length, version, reserved) == (len(payload), 1, 0), f"{name}: its header is {data[:8].hex(' ')}"
        values[name] = types[number].fields.decode(payload)
        again = types[number].fields.write(values[name])
        assert again == payload, f"{name}: {again.hex()} in place of {payload.hex()}"
        seen.add(number)
    assert seen == set(types), f"no frame of type {set(types) - seen}"
    digests = {
        "digest_of_apply_state": state_digest(values["apply"]["state"]),
        "digest_of_apply_short_state": state_digest(values["apply_short"]["state"]),
        "digest_of_names_tables": tables_digest(values["names"]["tables"]),
    }
    for name, digest in digests.items():
        assert digest == pinned[name], f"{name}: {digest.hex()} in place of {pinned[name].hex()}"
    print(f"{len(values)} frames and {len(digests)} digests agree")


main()

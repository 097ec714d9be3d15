"""A host of one guest that knows nothing of tether but docs/protocol.md.

It makes itself a key, listens, lets the guest in by its token, brings it the name tables and the
state of a file, and prints what it does and hears, an object of JSON on each line. It serves one
connection after the other: a guest that comes again waits until the one before has ended.
"""

import argparse
import datetime
import hashlib
import hmac
import ipaddress
import json
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

from encoding import Malformed
from messages import FROM_GUEST, HEADER, UNKNOWN_LIMIT, frame, state_digest, tables_digest

T = TypeVar("T")
PATIENCE = 10.0
SILENT_INTERVALS = 3
MOST_GENERATION = 2**62
NO_STAMP: dict[str, Any] = {"generation": 0, "digest": b""}


class Ended(Exception):
    """Why a connection is over."""


class Refused(Exception):
    """Why a guest is not let in."""


class Heard(NamedTuple):
    """A message from the guest."""

    name: str
    fields: dict[str, Any]


def say(**what: Any) -> None:
    print(json.dumps(what, default=bytes.hex), flush=True)


def pin_of(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).digest()


def new_identity() -> tuple[SSL.Context, bytes]:
    """What serves TLS with a new key, and the key's pin. The certificate's other words mean nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host")])
    day, year = datetime.datetime(2000, 1, 1), datetime.timedelta(days=365)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + year).sign(key, SHA256())
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(made)
    context.use_privatekey(key)
    # OpenSSL checks that the guest has its key; whose key it is, is judged with Hello.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return context, pin_of(made)


class Connection:
    """TLS with a guest, and frames in it."""

    def __init__(self, stream: socket.socket, context: SSL.Context) -> None:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream, self.buffer = stream, b""
        self.tls = SSL.Connection(context, stream)
        self.tls.set_accept_state()

    def patiently(self, step: Callable[[], T], deadline: float) -> T:
        """Takes a step of TLS, as soon as the stream allows it."""
        while True:
            try:
                return step()
            except SSL.WantReadError:
                reading, writing = [self.stream], []
            except SSL.WantWriteError:
                reading, writing = [], [self.stream]
            except (SSL.ZeroReturnError, SSL.SysCallError):
                raise Ended("the guest has closed it") from None
            except SSL.Error as error:
                raise Ended(f"TLS: {error}") from error
            if not any(select.select(reading, writing, [], max(0.0, deadline - time.monotonic()))):
                raise TimeoutError

    def handshake(self, deadline: float) -> bytes:
        """The pin of the guest's key, which it has shown to have."""
        self.patiently(self.tls.do_handshake, deadline)
        certificate = self.tls.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise Ended("no certificate")
        return pin_of(certificate)

    def fill(self, count: int, deadline: float) -> None:
        while len(self.buffer) < count:
            self.buffer += self.patiently(lambda: self.tls.recv(65_536), deadline)

    def hear(self, deadline: float, first: bool = False) -> Heard | None:
        """The next message, None for one that is not known. Partial frames outlast a TimeoutError."""
        self.fill(HEADER.size, deadline)
        length, number, version, reserved = HEADER.unpack_from(self.buffer)
        message = next((message for message in FROM_GUEST if message.number == number), None)
        limit = 4096 if first else message.limit if message else UNKNOWN_LIMIT
        if reserved != 0 or length > limit:
            raise Ended(f"no frame, or too long: {self.buffer[: HEADER.size].hex(' ')}")
        self.fill(HEADER.size + length, deadline)
        payload, self.buffer = self.buffer[HEADER.size :][:length], self.buffer[HEADER.size + length :]
        if message is None or version != 1:
            return None
        try:
            return Heard(message.name, message.fields.decode(payload))
        except Malformed as error:
            raise Ended(f"{message.name}: {error}") from error

    def send(self, data: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while data:
            data = data[self.patiently(partial(self.tls.send, data), deadline) :]

    def tell(self, name: str, **fields: Any) -> None:
        self.send(frame(name, fields))


class Guest:
    """The guest: how it is known, and what is wanted of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name: str = options.guest
        self.token: bytes | None = options.token
        self.expires = time.time() + options.expires
        self.key: bytes | None = None
        document = json.loads(options.document.read_text())
        self.state, self.tables = document["state"], document["names"]
        self.state_digest, self.tables_digest = state_digest(self.state), tables_digest(self.tables)
        self.last = {"apply": 0, "names": 0}

    def enter(self, key: bytes, token: bytes) -> None:
        """Lets it in, or says why not."""
        if self.key == key:
            return
        if self.key is not None:
            say(alarm={"bound": self.key, "shown": key})
            raise Refused("another key has redeemed this guest's join token")
        if self.token is None or not hmac.compare_digest(self.token, token):
            raise Refused("its join token is not the one this host has given out")
        if time.time() >= self.expires:
            raise Refused("its join token has expired")
        self.key, self.token = key, None
        say(enrolled=key)

    def next_number(self, document: str, stamp: dict[str, Any] | None) -> int:
        """One above the guest's and all that were given out."""
        self.last[document] = max(self.last[document], (stamp or NO_STAMP)["generation"]) + 1
        return self.last[document]


class Session:
    """One connection, once its guest is in."""

    def __init__(self, connection: Connection, guest: Guest, heartbeat: float) -> None:
        self.connection, self.guest, self.heartbeat = connection, guest, heartbeat

    def run(self, hello: dict[str, Any]) -> None:
        self.bring(hello["names"], hello["applied"])
        if (applied := hello["applied"] or NO_STAMP)["digest"] == self.guest.state_digest:
            # Its first Confirm may be lost.
            self.connection.tell("confirm", generation=applied["generation"])
        heard = time.monotonic()
        beat, nonce = heard + self.heartbeat, 0
        while True:
            try:
                message = self.connection.hear(beat)
            except TimeoutError:
                if time.monotonic() - heard > SILENT_INTERVALS * self.heartbeat:
                    raise Ended("the guest is silent") from None
                beat, nonce = beat + self.heartbeat, nonce + 1
                self.connection.tell("ping", nonce=nonce)
                continue
            heard = time.monotonic()
            if message:
                say(**message._asdict())
                self.answer(*message)

    def bring(self, names: dict[str, Any] | None, applied: dict[str, Any] | None) -> None:
        """Sends what the guest does not have. Names first: a workload may ask for one at once."""
        guest = self.guest
        if (names or NO_STAMP)["digest"] != guest.tables_digest:
            self.connection.tell("names", version=guest.next_number("names", names), tables=guest.tables)
        if (applied or NO_STAMP)["digest"] != guest.state_digest:
            self.connection.tell("apply", generation=guest.next_number("apply", applied), state=guest.state)

    def answer(self, name: str, fields: dict[str, Any]) -> None:
        if name == "ping":
            self.connection.tell("pong", nonce=fields["nonce"])
        elif name == "verified" and fields["confirm_within_s"] > 0:
            self.connection.tell("confirm", generation=fields["stamp"]["generation"])
        elif name == "names_gap":
            version = self.guest.next_number("names", fields["has"])
            self.connection.tell("names", version=version, tables=self.guest.tables)
        elif name == "workload_exited":
            self.connection.tell("exit_seen")
        elif name == "status":
            # One under a lower number was on its way while the newer one was.
            last, pairs = self.guest.last, (("names", fields["names"]), ("apply", fields["applied"]))
            newer = {what: stamp for what, stamp in pairs if stamp and stamp["generation"] >= last[what]}
            wanted = {"names": self.guest.tables_digest, "apply": self.guest.state_digest}
            known = {what: {"generation": last[what], "digest": digest} for what, digest in wanted.items()}
            self.bring(newer.get("names", known["names"]), newer.get("apply", known["apply"]))


def greet(connection: Connection, key: bytes, guest: Guest, options: argparse.Namespace) -> dict[str, Any]:
    """Hears who it is, and welcomes or refuses it. The hello."""
    message = connection.hear(time.monotonic() + PATIENCE, first=True)
    if message is None or message.name != "hello":
        raise Ended("no hello")
    hello, token = message.fields, message.fields.pop("token")
    try:
        low, high = options.protocols
        protocol = min(hello["protocol_max"], high)
        if protocol < max(hello["protocol_min"], low):
            spoken = f"{hello['protocol_min']} to {hello['protocol_max']}, this host {low} to {high}"
            raise Refused(f"no protocol in common: the guest speaks {spoken}")
        if hello["guest"] != guest.name:
            raise Refused("not a guest of this host")
        if any(stamp and stamp["generation"] > MOST_GENERATION for stamp in (hello["applied"], hello["names"])):
            raise Refused("a generation above 2^62, which no host has given out")
        guest.enter(key, token)
    except Refused as refused:
        connection.tell("refused", reason=str(refused))
        raise
    heartbeat = int(options.heartbeat * 1000)
    connection.tell("welcome", protocol=protocol, host_version="python", heartbeat_ms=heartbeat)
    say(**message._asdict())
    return hello


def serve(stream: socket.socket, context: SSL.Context, guest: Guest, options: argparse.Namespace) -> None:
    """Serves one connection to its end."""
    connection = Connection(stream, context)
    try:
        key = connection.handshake(time.monotonic() + PATIENCE)
        hello = greet(connection, key, guest, options)
        if options.unknown:
            connection.send(HEADER.pack(3, 900, 1, 0) + b"new")
            connection.send(HEADER.pack(3, 16, 2, 0) + b"new")
        Session(connection, guest, options.heartbeat).run(hello)
    except Refused as refused:
        say(refused=str(refused))
    except Ended as ended:
        say(ended=str(ended))
    except TimeoutError:
        say(ended="it took too long")
    finally:
        stream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", type=ipaddress.ip_address, required=True)
    parser.add_argument("--port", type=int, default=7373)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--token", type=bytes.fromhex, required=True, help="64 hexadecimal digits")
    parser.add_argument("--expires", type=float, default=600.0, help="seconds from now")
    parser.add_argument("--document", type=Path, required=True, help="state and names, docs/operations.md")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="seconds")
    parser.add_argument("--protocols", type=int, nargs=2, default=[1, 1], help="the lowest and the highest")
    parser.add_argument("--unknown", action="store_true", help="send frames that no guest knows, too")
    options = parser.parse_args()
    context, pin = new_identity()
    guest = Guest(options)
    family = socket.AF_INET6 if options.address.version == 6 else socket.AF_INET
    with socket.create_server((str(options.address), options.port), family=family) as listener:
        say(listening=pin)
        while True:
            serve(listener.accept()[0], context, guest, options)


main()

"""Frames, messages, documents and their digests: docs/protocol.md, "Frames" to "Messages"."""

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from encoding import BOOL, I32, TEXT, U8, U16, U32, U64
from encoding import Bytes32, Choice, List, Optional, Struct

HEADER = struct.Struct(">IHBB")
UNKNOWN_LIMIT = 65_536

TEXTS, NUMBER, WORD = List(TEXT), Optional(U32), Optional(TEXT)
STAMP = Struct(generation=U64, digest=Bytes32())
PROBLEM = Struct(path=TEXT, message=TEXT)
NONE = Struct()

# The desired state.
SCOPE = Optional(Choice(**dict.fromkeys(["global", "site", "link", "host"])))
PREFERENCE = Optional(Choice(low=None, medium=None, high=None))
MATCH = Struct(mac=WORD, pci=WORD, name=WORD)
IPV4 = Struct(forwarding=Optional(BOOL), rp_filter=Optional(U8), arp_ignore=Optional(U8), arp_announce=Optional(U8))
IPV6 = Struct(disable_ipv6=Optional(BOOL), forwarding=Optional(BOOL), accept_ra=Optional(U8))
ADDRESS = Struct(
    address=TEXT, peer=WORD, scope=SCOPE, label=WORD, valid_s=NUMBER, preferred_s=NUMBER,
    no_prefix_route=BOOL, home=BOOL, conflicts=Choice(optimistic=None, strict=None, off=None),
)
ROUTE = Struct(
    destination=TEXT, gateway=WORD, onlink=BOOL, metric=NUMBER, table=NUMBER, scope=SCOPE, source=WORD,
    mtu=NUMBER, preference=PREFERENCE,
)
HOP = Struct(interface=TEXT, gateway=WORD, onlink=BOOL, weight=Optional(U16))
PATH_ROUTE = Struct(
    destination=TEXT, type=Choice(unicast=None, blackhole=None, unreachable=None, prohibit=None, throw=None),
    hops=List(HOP), metric=NUMBER, table=NUMBER, scope=SCOPE, source=WORD, mtu=NUMBER, preference=PREFERENCE,
)
RULE = Struct(**{
    "priority": U32, "family": Optional(Choice(ipv4=None, ipv6=None)), "from": WORD, "to": WORD, "iif": WORD,
    "oif": WORD, "fwmark": NUMBER, "fwmask": NUMBER, "table": U32, "suppress_prefixlength": Optional(U8),
})
INTERFACE = Struct(
    match=Optional(MATCH), create=Optional(Choice(dummy=NONE, vlan=Struct(parent=TEXT, id=U16))), name=TEXT,
    optional=BOOL, alternative_names=TEXTS, mac=WORD, mtu=NUMBER, tx_queue_length=NUMBER, down=BOOL,
    ipv4=IPV4, ipv6=IPV6, addresses=List(ADDRESS), routes=List(ROUTE),
    neighbours=List(Struct(address=TEXT, mac=TEXT)),
)
FORWARD = Struct(domains=TEXTS, servers=TEXTS, interface=WORD, tls=Optional(Struct(name=TEXT, ca=TEXT)))
DNS = Struct(
    upstreams=TEXTS, forward=List(FORWARD), search=TEXTS, options=TEXTS, listen=TEXTS, cache_kib=NUMBER,
    stale_s=NUMBER, in_flight=NUMBER, refuse_private_answers=BOOL, keep_own_names=BOOL,
)
HOST = Struct(address=TEXT, names=TEXTS)
STATE = Struct(
    hostname=TEXT, domain=TEXT, interfaces=List(INTERFACE), routes=List(PATH_ROUTE), rules=List(RULE),
    dns=DNS, hosts=List(HOST), drift=Choice(repair=None, report=None), confirm_s=NUMBER,
    workload=Optional(Struct(argv=TEXTS, env=TEXTS, cwd=TEXT)),
)

# Name tables.
PORT = Struct(number=U16, protocol=Choice(tcp=None, udp=None, sctp=None), name=WORD)
ENDPOINT = Struct(names=TEXTS, addresses=TEXTS, ports=List(PORT))
ENDPOINTS = List(ENDPOINT)
NETWORK = Struct(network=TEXT, links=ENDPOINTS, endpoints=ENDPOINTS)
TABLES = Struct(ttl_seconds=U32, hosts=List(HOST), networks=List(NETWORK))
CHANGE = Struct(network=TEXT, links_removed=ENDPOINTS, links_added=ENDPOINTS, removed=ENDPOINTS, added=ENDPOINTS)

# What a guest says of itself.
OBSERVED_ADDRESS = Struct(address=TEXT, state=Choice(usable=None, tentative=None, duplicate=None), ours=BOOL)
OBSERVED_INTERFACE = Struct(
    index=U32, name=TEXT, mac=TEXT, mtu=U32, up=BOOL, carrier=BOOL, alternative_names=TEXTS,
    addresses=List(OBSERVED_ADDRESS),
    routes=List(Struct(destination=TEXT, gateway=WORD, metric=U32, table=U32, ours=BOOL)),
)
OBSERVED = Struct(
    interfaces=List(OBSERVED_INTERFACE),
    routes=List(Struct(destination=TEXT, type=TEXT, hops=TEXTS, metric=U32, table=U32, ours=BOOL)),
    rules=List(Struct(rule=TEXT, ours=BOOL)),
)
COUNTERS = ["queries", "local", "cached", "stale", "forwarded", "coalesced", "failed", "dropped", "ignored"]
STATUS = Struct(
    agent_version=TEXT, uptime_ms=U64, rss_kib=U64, applied=Optional(STAMP), names=Optional(STAMP),
    observed=OBSERVED, **dict.fromkeys(COUNTERS, U64), skipped_frames=U64,
    conditions=List(Struct(part=TEXT, message=TEXT)),
)
OUTCOME = Choice(
    left=None, reported=None, repaired=Struct(operations=U32), failed=Struct(message=TEXT),
    gave_up=Struct(retry_s=U32),
)
EVENT = Choice(
    workload_started=Struct(pid=U32), drift=Struct(changes=List(PROBLEM), count=U32, outcome=OUTCOME),
    address_conflict=Struct(interface=TEXT, address=TEXT, mac=TEXT),
)
FAILURE = Struct(
    phase=Choice(generation=None, check=None, plan=None, apply=None, files=None, verify=None, confirm=None),
    problems=List(PROBLEM), operation=Optional(Struct(operation=TEXT, errno=TEXT, kernel=TEXT)), restored=BOOL,
)

HELLO = Struct(
    protocol_min=U16, protocol_max=U16, guest=TEXT, agent_version=TEXT, capabilities=TEXTS, boot_id=TEXT,
    applied=Optional(STAMP), names=Optional(STAMP), token=Bytes32(),
)
VERIFIED = Struct(
    stamp=STAMP, operations=U32, took_us=U64, skipped=List(PROBLEM), confirm_within_s=U32, observed=OBSERVED
)
EXIT = Choice(code=Struct(code=I32), signal=Struct(signal=I32), not_started=Struct(why=TEXT))


@dataclass(frozen=True)
class Message:
    """A message type."""

    number: int
    name: str
    limit: int
    fields: Struct


GENERATION, NONCE, PINS = Struct(generation=U64), Struct(nonce=U64), Struct(pins=List(Bytes32()))
FROM_GUEST = [
    Message(1, "hello", 4096, HELLO),
    Message(4, "ping", 16, NONCE),
    Message(5, "pong", 16, NONCE),
    Message(17, "received", 16, GENERATION),
    Message(18, "verified", 4194304, VERIFIED),
    Message(19, "failed", 1048576, Struct(generation=U64, failure=FAILURE)),
    Message(21, "confirmed", 16, GENERATION),
    Message(23, "host_key_kept", 256, PINS),
    Message(33, "names_applied", 64, Struct(stamp=STAMP)),
    Message(34, "names_failed", 1048576, Struct(version=U64, problems=List(PROBLEM))),
    Message(36, "names_gap", 64, Struct(version=U64, has=Optional(STAMP))),
    Message(48, "status", 4194304, STATUS),
    Message(49, "event", 65536, Struct(uptime_ms=U64, dropped=U64, kind=EVENT)),
    Message(50, "workload_exited", 4096, Struct(exit=EXIT)),
]
FROM_HOST = [
    Message(2, "welcome", 1024, Struct(protocol=U16, host_version=TEXT, heartbeat_ms=U32)),
    Message(3, "refused", 1024, Struct(reason=TEXT)),
    Message(4, "ping", 16, NONCE),
    Message(5, "pong", 16, NONCE),
    Message(16, "apply", 4194304, Struct(generation=U64, state=STATE)),
    Message(20, "confirm", 16, GENERATION),
    Message(22, "host_key", 256, PINS),
    Message(32, "names", 16777216, Struct(version=U64, tables=TABLES)),
    Message(35, "names_delta", 1048576, Struct(base=U64, stamp=STAMP, changes=List(CHANGE))),
    Message(37, "flush_cache", 16, NONE),
    Message(51, "exit_seen", 16, NONE),
    Message(64, "stop", 16, Struct(grace_ms=U32)),
    Message(65, "signal", 16, Struct(number=I32)),
]


def frame(name: str, fields: dict[str, Any]) -> bytes:
    """The frame of a message from the host."""
    message = next(message for message in FROM_HOST if message.name == name)
    payload = message.fields.write(fields)
    if len(payload) > message.limit:
        raise ValueError(f"{name} has {len(payload)} bytes, {message.limit} at most")
    return HEADER.pack(len(payload), message.number, 1, 0) + payload


def state_digest(state: dict[str, Any]) -> bytes:
    return hashlib.sha256(STATE.write(state)).digest()


def tables_digest(tables: dict[str, Any]) -> bytes:
    """Whatever the order of entries, networks apart."""
    network = Struct(network=TEXT, links=SUM, endpoints=SUM)
    summary = Struct(ttl_seconds=U32, hosts=SUM, networks=List(network))
    networks = [
        {
            "network": each["network"],
            "links": entry_sum(ENDPOINT, each.get("links", [])),
            "endpoints": entry_sum(ENDPOINT, each.get("endpoints", [])),
        }
        for each in tables.get("networks", [])
    ]
    hosts = entry_sum(HOST, tables.get("hosts", []))
    fields = {"ttl_seconds": tables.get("ttl_seconds", 0), "hosts": hosts, "networks": networks}
    return hashlib.sha256(summary.write(fields)).digest()


SUM = Struct(a=U64, b=U64, c=U64, d=U64)


def entry_sum(kind: Struct, entries: list[dict[str, Any]]) -> dict[str, int]:
    sums = [0, 0, 0, 0]
    for entry in entries:
        numbers = struct.unpack("<4Q", hashlib.sha256(kind.write(entry)).digest())
        sums = [(a + b) % 2**64 for a, b in zip(sums, numbers)]
    return dict(zip("abcd", sums))

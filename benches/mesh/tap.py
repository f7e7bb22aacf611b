"""Listens in on a TLS connection between two hops: what the ServerHello says is in clear text."""

import socket
import struct
import threading

from machine import free_port

VERSIONS = {0x0304: "TLSv1_3", 0x0303: "TLSv1_2"}
SUITES = {0x1301: "TLS13_AES_128_GCM_SHA256", 0x1302: "TLS13_AES_256_GCM_SHA384", 0x1303: "TLS13_CHACHA20_POLY1305_SHA256"}
GROUPS = {0x1D: "X25519", 0x17: "secp256r1", 0x18: "secp384r1", 0x11EC: "X25519MLKEM768"}
SUPPORTED_VERSIONS, KEY_SHARE = 0x2B, 0x33


def server_hello(record):
    """Version, suite and group of a ServerHello (RFC 8446 §4.1.3) in its record."""
    session = record[43]
    suite, = struct.unpack_from("!H", record, 44 + session)
    at, version, group = 44 + session + 5, 0x0303, None
    while at + 4 <= 5 + struct.unpack_from("!H", record, 3)[0]:
        kind, length = struct.unpack_from("!HH", record, at)
        if kind == SUPPORTED_VERSIONS:
            version, = struct.unpack_from("!H", record, at + 4)
        elif kind == KEY_SHARE:
            group, = struct.unpack_from("!H", record, at + 4)
        at += 4 + length
    return " ".join((VERSIONS.get(version, hex(version)), SUITES.get(suite, hex(suite)), GROUPS.get(group, str(group))))


class Tap:
    """Passes one connection after another on to a port, and keeps the first bytes that come back."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", free_port()))
        self.seen, self.behind = b"", None
        return self

    def __exit__(self, *_):
        self.listener.close()

    def in_front_of(self, port):
        self.behind = port
        threading.Thread(target=self.accept, daemon=True).start()
        return self.listener.getsockname()[1]

    def accept(self):
        try:
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.behind))
                threading.Thread(target=self.copy, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self.copy, args=(far, near, True), daemon=True).start()
        except OSError:
            return

    def copy(self, source, target, keep):
        try:
            while piece := source.recv(65536):
                if keep and len(self.seen) < 4096:
                    self.seen += piece
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def agreed(self):
        return server_hello(self.seen)

"""The contenders (contenders/NAME/contender.toml), and chains of their processes."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

from machine import BIN, CPU_LOAD, CPU_PROXY, HOME, family, free_port, pinned

FOLDER = Path(__file__).resolve().parent / "contenders"
CERTIFICATES = HOME / "certificates"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
SMALL = 1024


class Contender:
    """`NAME`, or `NAME:VARIANT`."""

    def __init__(self, name):
        self.name = name
        base, _, variant = name.partition(":")
        self.folder = FOLDER / base
        self.file = tomllib.loads((self.folder / "contender.toml").read_text())
        chosen = self.file["variants"][variant] if variant else {}
        # A variant is another program, more arguments, other values in the templates.
        self.program = BIN / chosen.get("program", self.file["program"])
        self.more, self.set = chosen.get("arguments", []), chosen.get("set", {})

    def version(self):
        if "version" not in self.file:
            return "of this commit"
        done = subprocess.run([self.program, *self.file["version"]], capture_output=True, text=True)
        line = (done.stdout + done.stderr).replace(str(self.program), "").strip().splitlines()[0]
        return re.search(r"\d+\.\d+[\w.]*", line.replace("version: ", "")).group(0)

    def has(self, roles):
        return self.program.exists() and all(role in self.file["roles"] for role in roles)

    def command(self, role, marks, endpoints=0):
        """The command that plays the role; writes its config file. `endpoints`: so many more of them."""
        entry = self.file["roles"][role]
        if isinstance(entry, list):
            entry = {"arguments": entry}
        more = "".join(
            entry["endpoint"].format(number=number, ip=f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}",
                                     port=marks["UPSTREAM"])
            for number in range(endpoints)
        )
        marks = {**self.file.get("set", {}), **entry.get("set", {}), **self.set, **marks, "ROLE": role, "ENDPOINTS": more}

        def filled(text):
            # Twice: values may hold marks.
            for _ in range(2):
                for mark, value in marks.items():
                    text = text.replace(f"@{mark}@", str(value))
            return text

        if "config" in entry:
            template = self.folder / entry["config"]
            marks["CONFIG"] = marks["RUN"] / f"{role}{template.suffix}"
            optional = {"@LOG@", "@PLUGINS@", "@FILTERS@", "@PROTO@", "@OUTLIERS@"}
            text = filled(template.read_text())
            for mark in optional:
                text = text.replace(mark, "")
            marks["CONFIG"].write_text(text)
        arguments = [*self.file["arguments"], *entry.get("arguments", []), *self.more]
        return [self.program, *map(filled, arguments)]


class Server:
    """A helper beside the contenders, on the load's CPU."""

    def __init__(self, command, output=subprocess.DEVNULL):
        self.process = subprocess.Popen(pinned(CPU_LOAD, command), stdout=output, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Backend(Server):
    def __init__(self):
        self.plain, self.h2c = free_port(), free_port()
        # On every loopback address: each of many endpoints is one.
        super().__init__([BIN / "backend", "--listen", f"0.0.0.0:{self.plain}", "--h2c", f"127.0.0.1:{self.h2c}"])
        answers(self.plain, self.process)


class Registry(Server):
    def __init__(self):
        super().__init__([BIN / "outrigger", "registry", "--listen", "127.0.0.1:0"], subprocess.PIPE)
        line = self.process.stdout.readline()
        self.port = int(next(iter(json.loads(line).values())).rsplit(":", 1)[1])


def client_tls(with_certificate=True):
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if with_certificate:
        context.load_cert_chain(CERTIFICATES / "client.pem", CERTIFICATES / "client.key")
    context.set_alpn_protocols(["http/1.1"])
    return context


def get(stream, token=None):
    """One GET on an open connection; gives the status line once the whole answer is there."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    stream.sendall(f"GET / HTTP/1.1\r\nHost: inbound.mesh\r\n{bearer}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < SMALL:
        piece = stream.recv(65536)
        if not piece:
            raise ConnectionError("closed before the end of the answer")
        answer += piece
        if b"\r\n" in answer and b" 200 " not in answer.split(b"\r\n", 1)[0]:
            break
    return answer.split(b"\r\n", 1)[0].decode()


def answers(port, process, tls=None, h2=False, token=None, within=30):
    """Waits until requests are answered with 200 there; HTTP/2: until SETTINGS come. Gives the seconds it took."""
    start, last = time.monotonic(), "nothing listens"
    while time.monotonic() - start < within and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
                if tls:
                    stream = tls.wrap_socket(stream, server_hostname="inbound.mesh")
                if h2:
                    stream.sendall(PREFACE)
                    if len(stream.recv(9)) == 9:
                        return time.monotonic() - start
                else:
                    last = get(stream, token)
                    if " 200 " in last + " ":
                        return time.monotonic() - start
        except OSError as error:
            last = str(error)
        time.sleep(0.001)
    raise RuntimeError(f"port {port}: {last}")


class Chain:
    """The processes of one contender, in the order of its roles; clients connect to `port`."""

    def __init__(self, contender, roles, bench, *, upstream=None, token=None, between=None, endpoints=0, probe=True):
        self.processes, self.let_end = [], bench.let_end
        self.run = Path(tempfile.mkdtemp(prefix=f"{contender.name.replace(':', '-')}-", dir=HOME / "runs"))
        self.port = upstream or bench.backend.plain
        registry = bench.registry.port if bench.registry else 0
        try:
            for role in reversed(roles):
                marks = {"LISTEN": free_port(), "UPSTREAM": self.port, "CERTIFICATES": CERTIFICATES, "RUN": self.run,
                         "REGISTRY": registry}
                with open(self.run / f"{role}.output", "w") as output:
                    command = pinned(CPU_PROXY, contender.command(role, marks, endpoints))
                    self.processes.append(subprocess.Popen(command, stdout=output, stderr=output))
                self.port = marks["LISTEN"]
                # The first hop is asked only once those behind it answer.
                h2 = role == "hop_h2c" or role.endswith("_grpc")
                if probe and not (role.startswith("in") and h2):
                    tls = client_tls() if role.startswith("in") else None
                    answers(self.port, self.processes[-1], tls, h2, token)
                if between and role != roles[0]:
                    self.port = between(self.port)
        except Exception as error:
            said = "".join(f"\n{path.name}: {path.read_text()[-800:]}" for path in self.run.glob("*.output"))
            self.__exit__()
            raise RuntimeError(f"{error}{said}") from error

    def __enter__(self):
        return self

    def pids(self):
        return [pid for process in self.processes for pid in family(process.pid)]

    def __exit__(self, *_):
        for process in reversed(self.processes):
            members = family(process.pid)
            if self.let_end:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            process.send_signal(signal.SIGKILL)
            process.wait()
            # nginx's worker goes by itself; it is not waited for, but must not take CPU from the next contender.
            for member in members[1:]:
                subprocess.run(["kill", "-KILL", str(member)], capture_output=True)
        shutil.rmtree(self.run, ignore_errors=True)

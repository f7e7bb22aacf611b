"""The work that contenders are measured by: each takes (contender, bench) and gives numbers, or None where it cannot be done."""

import json
import os
import re
import socket
import statistics
import time
from dataclasses import dataclass

from contenders import CERTIFICATES, Chain, answers, client_tls, get
from machine import BIN, HOME, cpu_seconds, forget_peak, memory_kib, run
from tap import Tap

HANDSHAKES_AT_ONCE = 16
RATE = 2000
IDLE_CONNECTIONS = 5000
ENDPOINTS = 10_000
BODY_MIB = 100
BODIES = 5
STARTS = 5


@dataclass
class Bench:
    """What all work of one run shares."""

    backend: object
    registry: object
    token: str
    seconds: int
    # Contenders are asked to end, not killed.
    let_end: bool = False


# ---------------------------------------------------------------- load generators: completed requests, and their rate

def wrk(port, seconds, connections=32, token=None):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    if token:
        command += ["-H", f"Authorization: Bearer {token}"]
    said = run([*command, f"http://127.0.0.1:{port}/"], seconds + 30)
    done = int(re.search(r"(\d+) requests in", said).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    return done, rate


def h2load(port, seconds, grpc=False):
    command = ["h2load", "-t1", "-c8", "-m32", f"-D{seconds}"]
    path = "/"
    if grpc:
        message = HOME / "message.grpc"
        message.write_bytes(b"\0\0\0\0\x40" + b"x" * 64)
        path = "/bench.Echo/Call"
        command += ["-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers"]
    said = run([*command, f"http://127.0.0.1:{port}{path}"], seconds + 30)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    good, bad = int(counts.group(1)), int(counts.group(2)) + int(counts.group(3))
    others = sum(int(count) for count in re.search(r"(\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said).groups())
    # What is under way at the end counts as failed: at most 8 × 32. Envoy now and then refuses the first streams.
    if not good or bad > 256 or others > good / 50:
        raise RuntimeError(said)
    return good, good / seconds


def at_rate(port, seconds):
    """HTTP/1.1 at a fixed rate over 32 connections; gives p50 and p99 in microseconds, and the requests done."""
    said = json.loads(run([BIN / "pace", "--addr", f"127.0.0.1:{port}", "--rate", RATE, "--seconds", seconds], seconds + 30))
    return said["p50_us"], said["p99_us"], said["done"]


# ---------------------------------------------------------------- work

def requests(roles, load=wrk, h2c=False, token=False, **how):
    """Saturation: CPU time of all hops over completed requests."""
    def work(contender, bench):
        bearer = bench.token if token else None
        options = {**how, "token": bearer} if token else how
        upstream = bench.backend.h2c if h2c else None
        with Chain(contender, roles, bench, upstream=upstream, token=bearer) as chain:
            load(chain.port, 1, **options)
            pids = chain.pids()
            before, start = cpu_seconds(pids), time.monotonic()
            done, rate = load(chain.port, bench.seconds, **options)
            spent, wall = cpu_seconds(pids) - before, time.monotonic() - start
            return {"cpu_us": spent * 1e6 / done, "per_second": rate, "busy_percent": 100 * spent / wall,
                    "rss_mib": memory_kib(pids) / 1024}
    return roles, work


def latency(roles):
    """What the chain adds at a fixed moderate rate to the backend's own times, measured just before."""
    def work(contender, bench):
        with Chain(contender, roles, bench) as chain:
            at_rate(chain.port, 1)
            direct50, direct99, _ = at_rate(bench.backend.plain, bench.seconds)
            pids = chain.pids()
            before = cpu_seconds(pids)
            through50, through99, done = at_rate(chain.port, bench.seconds)
            spent = cpu_seconds(pids) - before
            return {"p50_added_us": through50 - direct50, "p99_added_us": through99 - direct99, "p50_us": through50,
                    "p99_us": through99, "direct_p50_us": direct50, "cpu_us": spent * 1e6 / done,
                    "per_second": done / bench.seconds}
    return roles, work


def handshakes(roles):
    """A new mTLS connection for each request, straight to the inbound side."""
    def work(contender, bench):
        with Chain(contender, roles, bench) as chain:
            def load(seconds):
                said = run([BIN / "handshakes", "--addr", f"127.0.0.1:{chain.port}", "--certificates", CERTIFICATES,
                            "--seconds", seconds, "--connections", HANDSHAKES_AT_ONCE], seconds + 30)
                return json.loads(said.strip().splitlines()[-1])
            load(1)
            pids = chain.pids()
            before = cpu_seconds(pids)
            counted = load(bench.seconds)
            spent = cpu_seconds(pids) - before
            if counted["failed"] > counted["done"] / 100:
                raise RuntimeError(counted)
            return {"cpu_us": spent * 1e6 / counted["done"], "per_second": counted["done"] / counted["seconds"],
                    "busy_percent": 100 * spent / counted["seconds"], "tls": counted["tls"]}
    return roles, work


def bodies(roles, up):
    """Bodies of 100 MiB, one after the other, each on a new connection."""
    def work(contender, bench):
        body = HOME / "body"
        if not body.exists():
            with open(body, "wb") as file:
                file.truncate(BODY_MIB << 20)
        with Chain(contender, roles, bench) as chain:
            command = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code} %{size_download} %{size_upload}"]
            command += ["-H", "Expect:", "-T", body] if up else []
            whole = BODY_MIB << 20

            def transfer():
                said = run([*command, f"http://127.0.0.1:{chain.port}/big"], 60).split()
                if said[0] != "200" or int(said[2 if up else 1]) != whole:
                    raise RuntimeError(said)
            transfer()
            pids = chain.pids()
            forget_peak(pids)
            before, start = cpu_seconds(pids), time.monotonic()
            for _ in range(BODIES):
                transfer()
            spent, wall = cpu_seconds(pids) - before, time.monotonic() - start
            gib = BODIES * BODY_MIB / 1024
            return {"cpu_s_per_gib": spent / gib, "gib_per_second": gib / wall,
                    "peak_rss_mib": memory_kib(pids, "VmHWM") / 1024}
    return roles, work


def idle(roles):
    """Memory at rest, and of connections that have had one answer each."""
    def work(contender, bench):
        tls = client_tls() if roles[0] == "in" else None
        connections = IDLE_CONNECTIONS if roles[0] == "hop" else IDLE_CONNECTIONS // 5 * 2
        with Chain(contender, roles, bench, probe=False) as chain:
            time.sleep(1.5)
            pids = chain.pids()
            at_rest = memory_kib(pids)
            answers(chain.port, chain.processes[-1], tls)
            first, kept = memory_kib(pids), []
            try:
                for _ in range(connections):
                    stream = socket.create_connection(("127.0.0.1", chain.port))
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    kept.append(tls.wrap_socket(stream, server_hostname="inbound.mesh") if tls else stream)
                    get(kept[-1])
                time.sleep(1)
                full = memory_kib(pids)
            finally:
                for stream in kept:
                    stream.close()
            return {"idle_mib": at_rest / 1024, "with_connections_mib": full / 1024,
                    "kib_per_connection": (full - first) / connections}
    return roles, work


def endpoints(roles):
    """One endpoint against ten thousand of one service: time until something listens, and memory."""
    def work(contender, bench):
        seen = {}
        for count in (1, ENDPOINTS):
            with Chain(contender, roles, bench, endpoints=count - 1, probe=False) as chain:
                start = time.monotonic()
                answers(chain.port, chain.processes[-1], within=60)
                seen[count] = (time.monotonic() - start, memory_kib(chain.pids()))
        (_, one), (took, many) = seen[1], seen[ENDPOINTS]
        return {"more_mib": (many - one) / 1024, "bytes_per_endpoint": (many - one) * 1024 / (ENDPOINTS - 1),
                "start_ms": took * 1000}
    return roles, work


def start(roles):
    """From the start of the process to the first answer; where there is a ready file, to that, too."""
    def work(contender, bench):
        first, ready = [], []
        for _ in range(STARTS):
            began, wall = time.monotonic(), time.time()
            with Chain(contender, roles, bench) as chain:
                first.append((time.monotonic() - began) * 1000)
                file = chain.run / f"{roles[0]}-ready.json"
                while any("ready-file" in str(word) for word in contender.file["arguments"]) and not file.exists():
                    time.sleep(0.001)
                if file.exists():
                    ready.append((file.stat().st_mtime - wall) * 1000)
        seen = {"first_answer_ms": statistics.median(first), "program_mib": contender.program.stat().st_size / 2**20}
        return {**seen, "ready_ms": statistics.median(ready)} if ready else seen
    return roles, work


def agreed(roles):
    """What TLS agrees on between the hops, and whether a client without a certificate is turned away."""
    def work(contender, bench):
        with Tap() as tap, Chain(contender, roles, bench, between=tap.in_front_of) as chain:
            said = tap.agreed()
            behind = tap.behind
            try:
                with socket.create_connection(("127.0.0.1", behind), timeout=5) as stream:
                    status = get(client_tls(with_certificate=False).wrap_socket(stream, server_hostname="inbound.mesh"))
            except OSError:
                status = "no answer"
            if " 200" in status:
                raise RuntimeError("a client without a certificate was answered")
            version, suite, group = said.split()
            return {"tls": f"{version} {suite}", "key_exchange": group, "without_certificate": status}
    return roles, work


PAIR_H1, PAIR_H2 = ["out_h1", "in"], ["out_h2", "in"]

# name: (what it is, (roles, work), the main figure, the share of the rounds it is run in)
WORK = {
    "tls": ("what TLS agrees on between the hops", agreed(PAIR_H1), "tls", 0),
    "hop_h1": ("plain hop, HTTP/1.1", requests(["hop"]), "cpu_us", 1),
    "pair_h1": ("pair, mTLS, HTTP/1.1 between", requests(PAIR_H1), "cpu_us", 1),
    "pair_h2": ("pair, mTLS, HTTP/2 between", requests(PAIR_H2), "cpu_us", 1),
    "pair_jwt": ("pair, mTLS, HTTP/1.1 between, JWT seen before",
                 requests(["out_h1", "in_jwt"], token=True), "cpu_us", 1),
    "pair_h1_log": ("pair, mTLS, HTTP/1.1 between, access log on",
                    requests(["out_h1_log", "in_log"]), "cpu_us", 1),
    "hop_h2c": ("plain hop, h2c end to end", requests(["hop_h2c"], h2load, h2c=True), "cpu_us", 1),
    "pair_grpc": ("pair, mTLS, gRPC unary, HTTP/2 throughout",
                  requests(["out_grpc", "in_grpc"], h2load, h2c=True, grpc=True), "cpu_us", 1),
    "handshake": ("full mTLS handshake and one request", handshakes(["in"]), "cpu_us", 1),
    "latency": ("p50 added at 2,000/s, pair, HTTP/1.1 between", latency(PAIR_H1), "p50_added_us", 1),
    "idle_plain": ("5,000 idle plain connections", idle(["hop"]), "kib_per_connection", 0.25),
    "idle_mtls": ("2,000 idle mTLS connections", idle(["in"]), "kib_per_connection", 0.25),
    "endpoints": ("10,000 endpoints instead of 1", endpoints(["hop_many"]), "more_mib", 0.25),
    "start": ("start to first answer", start(["hop"]), "first_answer_ms", 0.25),
    "body_down_hop": ("100 MiB down, plain hop", bodies(["hop"], False), "cpu_s_per_gib", 1),
    "body_up_hop": ("100 MiB up, plain hop", bodies(["hop"], True), "cpu_s_per_gib", 1),
    "body_down_pair_h1": ("100 MiB down, pair, HTTP/1.1 between", bodies(PAIR_H1, False), "cpu_s_per_gib", 1),
    "body_up_pair_h1": ("100 MiB up, pair, HTTP/1.1 between", bodies(PAIR_H1, True), "cpu_s_per_gib", 1),
    "body_down_pair_h2": ("100 MiB down, pair, HTTP/2 between", bodies(PAIR_H2, False), "cpu_s_per_gib", 1),
    "body_up_pair_h2": ("100 MiB up, pair, HTTP/2 between", bodies(PAIR_H2, True), "cpu_s_per_gib", 1),
    "hop_c1": ("plain hop, HTTP/1.1, 1 connection", requests(["hop"], connections=1), "cpu_us", 0.375),
    "hop_c8": ("plain hop, HTTP/1.1, 8 connections", requests(["hop"], connections=8), "cpu_us", 0.375),
    "hop_c256": ("plain hop, HTTP/1.1, 256 connections", requests(["hop"], connections=256), "cpu_us", 0.375),
    "pair_c1": ("pair, mTLS, HTTP/1.1 between, 1 connection", requests(PAIR_H1, connections=1), "cpu_us", 0.375),
    "pair_c8": ("pair, mTLS, HTTP/1.1 between, 8 connections", requests(PAIR_H1, connections=8), "cpu_us", 0.375),
    "pair_c256": ("pair, mTLS, HTTP/1.1 between, 256 connections", requests(PAIR_H1, connections=256), "cpu_us", 0.375),
}

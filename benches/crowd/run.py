#!/usr/bin/env python3
"""What 10,000 slow connections do to good clients: their latency before and meanwhile.

  run.py [--binary target/release/outrigger] [--crowd 10000] [--seconds 60] [--rate 200]

Half of the crowd sends heads byte by byte, and comes back whenever it is dropped; half keeps idle connections open. Good
clients come from another address. Needs nothing but the binary and a limit of open files of twice the crowd.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import pathlib
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def serve_app(listener):
    class App(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            for _ in range(data.count(b"\r\n\r\n")):
                self.transport.write(ANSWER)

    async def run():
        server = await asyncio.get_running_loop().create_server(App, sock=listener)
        await server.serve_forever()

    asyncio.run(run())


def crowd(address, size, stop, count):
    """Holds `size` connections until told to stop; `count` is how many are open."""
    selector, slow, dripped = selectors.EpollSelector(), {}, time.monotonic()
    kinds = {}

    def open_one(kind, at):
        one = socket.socket()
        one.bind((f"127.0.{1 + at % 100}.{1 + at % 7}", 0))
        one.connect(address)
        one.setblocking(False)
        if kind == "head":
            one.send(b"GET / HTTP/1.1\r\nHost: us")
        else:
            one.send(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")
        kinds[one] = (kind, at)
        selector.register(one, selectors.EVENT_READ)

    for at in range(size):
        open_one("head" if at % 2 else "idle", at)
        count.value = len(kinds)
    reopened = 0
    while not stop.is_set():
        for key, _ in selector.select(0.2):
            one = key.fileobj
            try:
                gone = not one.recv(4096)
            except OSError:
                gone = True
            if gone:
                selector.unregister(one)
                kind, at = kinds.pop(one)
                one.close()
                reopened += 1
                open_one(kind, at)
        if time.monotonic() - dripped > 4:
            dripped = time.monotonic()
            for one, (kind, _) in list(kinds.items()):
                if kind == "head":
                    try:
                        one.send(b"e")
                    except OSError:
                        pass
        count.value = len(kinds)
    print(f"the crowd was dropped and came back {reopened} times", file=sys.stderr)


def good_client(address, rate, seconds, pipe):
    times, failures = [], 0
    one = socket.create_connection(address, source_address=("127.0.0.1", 0))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    start = time.monotonic()
    for at in range(int(rate * seconds)):
        wait = start + at / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        begun = time.perf_counter()
        one.sendall(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")
        if not one.recv(4096).startswith(b"HTTP/1.1 200"):
            failures += 1
        times.append(time.perf_counter() - begun)
    pipe.send((times, failures))


def measure(address, rate, seconds):
    clients, times, failures = [], [], 0
    for _ in range(2):
        ours, theirs = multiprocessing.Pipe()
        client = multiprocessing.Process(target=good_client, args=(address, rate / 2, seconds, theirs))
        client.start()
        clients.append((client, ours))
    for client, pipe in clients:
        some, failed = pipe.recv()
        times += some
        failures += failed
        client.join()
    times.sort()
    at = lambda share: round(times[int(share * (len(times) - 1))] * 1e6)
    return {"requests": len(times), "failures": failures, "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}


def memory(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def wait_for(path):
    for _ in range(300):
        if path.exists():
            return json.loads(path.read_text())
        time.sleep(0.1)
    sys.exit(f"no {path}:\n" + (path.parent / "log").read_text())


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", default="target/release/outrigger")
    options.add_argument("--crowd", type=int, default=10_000)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--rate", type=int, default=200)
    options = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    binary = os.path.abspath(options.binary)
    started = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        app = multiprocessing.Process(target=serve_app, args=(listener,), daemon=True)
        app.start()
        registry = subprocess.Popen(
            [binary, "registry", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        started.append(registry)
        try:
            consul = "http://" + json.loads(registry.stdout.readline())["listen"]
            subprocess.run([binary, "ca", "init", folder / "ca"], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            config = {
                "service": {"name": "users", "port": listener.getsockname()[1]},
                "consul": {"address": consul},
                "identity": {"ca": {"dir": str(folder / "ca")}},
                "inbound": {"listen": "127.0.0.1:0", "mtls": "off", "limits": {"connections": options.crowd + 5000}},
                "outbound": {"listen": "127.0.0.1:0"},
                "admin": {"listen": "127.0.0.1:0"},
                "metrics": {"listen": "127.0.0.1:0"},
            }
            (folder / "outrigger.yaml").write_text(json.dumps(config))
            log = (folder / "log").open("w")
            sidecar = subprocess.Popen(
                [binary, "run", "-c", folder / "outrigger.yaml", "--ready-file", folder / "ready"], stdout=log, stderr=log
            )
            started.append(sidecar)
            host, port = wait_for(folder / "ready")["inbound"].rsplit(":", 1)
            address = (host, int(port))
            before = measure(address, options.rate, max(options.seconds / 4, 5))
            idle = memory(sidecar.pid)
            stop, count = multiprocessing.Event(), multiprocessing.Value("i", 0)
            many = multiprocessing.Process(target=crowd, args=(address, options.crowd, stop, count), daemon=True)
            many.start()
            while count.value < options.crowd and many.is_alive():
                time.sleep(0.1)
            meanwhile = measure(address, options.rate, options.seconds)
            held = memory(sidecar.pid)
            told = {"crowd": count.value, "before": before, "meanwhile": meanwhile,
                    "p99_ratio": round(meanwhile["p99_us"] / before["p99_us"], 2),
                    "memory_mib": {"before": idle, "meanwhile": held}}
            stop.set()
            many.join()
            print(json.dumps(told, indent=1))
        finally:
            for process in started:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()

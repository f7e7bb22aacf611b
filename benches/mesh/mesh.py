#!/usr/bin/env python3
"""The mesh benchmark: outrigger beside other proxies on the same work. README.md says how and what is kept equal."""

import argparse
import datetime
import fnmatch
import json
import subprocess
import sys
import time
from pathlib import Path

import certificates
import machine
import report
from contenders import CERTIFICATES, Backend, Contender, Registry
from work import WORK, Bench

CONTENDERS = "outrigger,relay,relay:late,envoy,haproxy,nginx"
# The late flush is HTTP/2's alone: elsewhere `relay:late` is `relay` again.
ONLY_H2 = "h2|grpc"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="*", help="names or patterns of work, separated by commas; see --list")
    parser.add_argument("--contenders", default=CONTENDERS, help="NAME or NAME:VARIANT, separated by commas")
    parser.add_argument("--rounds", type=int, default=8, help="of the main rows; long rows take a share of them")
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement")
    parser.add_argument("--let-end", action="store_true", help="ask contenders to end, where a profile is written then")
    parser.add_argument("--out", type=Path, default=machine.HOME / "mesh.json", help="the JSON, written after each work")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print the table of these results")
    parser.add_argument("--list", action="store_true", help="only list work")
    return parser.parse_args()


def chosen(patterns):
    names = [name for name in WORK if any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split(","))]
    return names or sys.exit(f"no such work: {patterns}")


def takes_part(contender, work, roles):
    if contender.name.endswith(":late") and not any(part in work for part in ONLY_H2.split("|")):
        return False
    return contender.has(roles)


def rounded(metrics):
    return {name: value if isinstance(value, str) else float(f"{value:.4g}") for name, value in metrics.items()}


def rounds_of(work, rounds):
    return max(1, round(WORK[work][3] * rounds))


def measure(options, bench, contenders, result):
    for name in chosen(options.work):
        _, (roles, work), figure, _ = WORK[name]
        for number in range(rounds_of(name, options.rounds)):
            # Whoever comes first in a round may find another machine than who comes last.
            first = number % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                if not takes_part(contender, name, roles):
                    continue
                where = {"work": name, "contender": contender.name, "round": number}
                try:
                    metrics = rounded(work(contender, bench))
                except (OSError, RuntimeError, AttributeError, IndexError, subprocess.SubprocessError) as error:
                    # One that fails must not stop the others.
                    result["errors"].append({**where, "error": str(error)[-600:]})
                    print(f"{name} {number} {contender.name} FAILED: {error}", file=sys.stderr, flush=True)
                    continue
                result["cells"].append({**where, "metrics": metrics})
                print(f"{name} {number} {contender.name} {figure}={metrics[figure]}", file=sys.stderr, flush=True)
        options.out.write_text(compact(result))


def compact(result):
    """JSON with one cell a line."""
    head = json.dumps({key: value for key, value in result.items() if key != "cells"}, indent=1)[:-2]
    return head + ',\n "cells": [\n  ' + ",\n  ".join(map(json.dumps, result["cells"])) + "\n ]\n}\n"


def merged(files):
    first, *others = [json.loads(file.read_text()) for file in files]
    for other in others:
        again = {cell["work"] for cell in other["cells"]}
        first["cells"] = [cell for cell in first["cells"] if cell["work"] not in again] + other["cells"]
        first["errors"] += other["errors"]
        first["versions"] |= other["versions"]
    return first


def main():
    options = arguments()
    if options.list:
        for name, (description, (roles, _), figure, _) in WORK.items():
            print(f"{name:18} {figure:19} {description} ({' → '.join(roles)})")
        return
    if options.table:
        print(report.markdown(merged(options.table)))
        return
    machine.many_files()
    (machine.HOME / "runs").mkdir(parents=True, exist_ok=True)
    token = certificates.make(CERTIFICATES)
    contenders = [Contender(name) for name in options.contenders.split(",")]
    for contender in contenders:
        if not contender.program.exists():
            print(f"{contender.name} is not there: benches/mesh/setup gets it", file=sys.stderr)
    contenders = [contender for contender in contenders if contender.program.exists()]
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.described(),
        "seconds": options.seconds,
        "versions": {contender.name: contender.version() for contender in contenders},
        "errors": [],
        "cells": [],
    }
    with Backend() as backend, Registry() as registry:
        began = time.monotonic()
        measure(options, Bench(backend, registry, token, options.seconds, options.let_end), contenders, result)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes; {options.out}", file=sys.stderr)
    print(report.markdown(result))


if __name__ == "__main__":
    main()

"""What is made of the numbers: medians and ranges, ratios within rounds, and the table."""

import statistics

from work import WORK

US = "outrigger"
LATE = "relay:late"
# The wanted ratio of outrigger to each, by work: at most.
WANTED = {
    "hop_h1": {"relay": 1.20, "envoy": 0.40, "haproxy": 1.2},
    "pair_h1": {"relay": 1.20, "envoy": 0.32, "haproxy": 1.0},
    "pair_h2": {LATE: 1.20, "envoy": 0.42, "haproxy": 1.2},
    "hop_h2c": {LATE: 1.25, "envoy": 0.40},
    "pair_jwt": {"envoy": 0.30},
    "handshake": {"relay": 1.15, "envoy": 0.70, "haproxy": 0.5},
    "latency": {"relay": 1.15, "envoy": 0.45, "haproxy": 1.0},
    "idle_plain": {"envoy": 1.0},
    "idle_memory": {"envoy": 0.2, "haproxy": 1.0},
} | {work: {"relay": 1.10, "envoy": 1.05, "haproxy": 0.9} for work in WORK if work.startswith("body_")}
UNITS = {"cpu_us": "µs CPU", "p50_added_us": "µs", "cpu_s_per_gib": "s CPU/GiB", "kib_per_connection": "KiB/connection",
         "more_mib": "MiB more", "first_answer_ms": "ms", "idle_mib": "MiB"}
# A second row from the same runs.
BESIDE = {"idle_memory": ("idle_plain", "memory at rest, one hop", "idle_mib")}


def written(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values, write=written):
    """Median, and the range in brackets."""
    middle = write(statistics.median(values))
    return f"{middle} ({write(min(values))}–{write(max(values))})" if len(values) > 1 else middle


def figures(cells, work, figure):
    """{contender: {round: value}} of one work."""
    found = {}
    for cell in cells:
        if cell["work"] == work and figure in cell["metrics"]:
            found.setdefault(cell["contender"], {})[cell["round"]] = cell["metrics"][figure]
    return found


def ratios(ours, theirs):
    """Ours over theirs within each round that has both."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]]


def rows(cells):
    """(work, description, figure) of all that was run, in the order of WORK."""
    for work, (description, _, figure, _) in WORK.items():
        if figure != "tls" and any(cell["work"] == work for cell in cells):
            yield work, work, description, figure
            for name, (source, beside, other) in BESIDE.items():
                if source == work:
                    yield name, work, beside, other


def judged(values, wanted):
    text = spread(values, "{:.2f}".format)
    if wanted is None:
        return text
    return f"{text} {'✓' if statistics.median(values) <= wanted else '✗'} ≤ {wanted:.2f}"


def ratio_table(cells, names):
    others = [name for name in names if name != US and any(cell["contender"] == name for cell in cells)]
    lines = ["| work | outrigger | rounds | " + " | ".join(f"÷ {name}" for name in others) + " |",
             "|---|---|---|" + "---|" * len(others)]
    for name, work, description, figure in rows(cells):
        found = figures(cells, work, figure)
        ours = found.get(US, {})
        if not ours:
            continue
        columns = []
        for other in others:
            compared = ratios(ours, found.get(other, {}))
            columns.append(judged(compared, WANTED.get(name, {}).get(other)) if compared else "–")
        lines.append(f"| {description} | {spread(list(ours.values()))} {UNITS[figure]} | {len(ours)} | "
                     + " | ".join(columns) + " |")
    return "\n".join(lines)


def full_table(cells):
    lines = ["| work | contender | median (range) of each figure |", "|---|---|---|"]
    for work, (description, *_) in WORK.items():
        seen = {}
        for cell in cells:
            if cell["work"] == work:
                for figure, value in cell["metrics"].items():
                    seen.setdefault(cell["contender"], {}).setdefault(figure, []).append(value)
        for contender, values in seen.items():
            texts = [f"{figure} {', '.join(sorted(set(all_))) if isinstance(all_[0], str) else spread(all_)}"
                     for figure, all_ in values.items()]
            lines.append(f"| {description} | {contender} | {'; '.join(texts)} |")
    return "\n".join(lines)


def unequal(cells):
    """What is not the same for all contenders, though it has to be."""
    found = []
    for work in WORK:
        said = {}
        for cell in cells:
            if cell["work"] == work and "tls" in cell["metrics"]:
                said.setdefault(cell["metrics"]["tls"], set()).add(cell["contender"])
        if len(said) > 1:
            found.append(f"{work}: " + "; ".join(f"{tls}: {', '.join(sorted(who))}" for tls, who in said.items()))
    return found


def markdown(result):
    machine, errors = result["machine"], result["errors"]
    parts = [
        f"{result['date']}, commit {result['commit']}; {machine['cpus']} × {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['system']}; {result['seconds']} s a measurement.",
        "; ".join(f"{name}: {version}" for name, version in result["versions"].items()),
        ratio_table(result["cells"], result["versions"]),
        full_table(result["cells"]),
    ]
    parts += [f"Not equal: {line}" for line in unequal(result["cells"])]
    parts += [f"Failed: {e['work']}, {e['contender']}, round {e['round']}: {e['error']}" for e in errors]
    return "\n\n".join(parts)

"""Medians and ratios of the measured rounds, as text and as benches/RESULTS.md."""

import statistics

# Ratio of nuncio to a peer in one round, at most (issues 2 and 6, "Bars").
BARS = {
    ("h1", "envoy"): 0.50,
    ("h1", "haproxy"): 1.15,
    ("h1-c1024", "envoy"): 0.40,
    ("h2-h1", "envoy"): 0.45,
    ("h2-h2", "envoy"): 0.65,
    ("filters", "envoy"): 0.50,
    ("h1-10m", "envoy"): 1.0,
    ("tls-handshake", "envoy"): 0.90,
    ("tls-handshake", "haproxy"): 0.80,
    ("tls-h1", "envoy"): 0.55,
    ("tls-h2", "envoy"): 0.50,
    ("tls-idle", "envoy"): 0.60,
}

# What nuncio may need at most, by work and column.
LIMITS = {
    ("idle", "idle_mb"): 25,
    ("idle", "connection_kb"): 10,
    ("clusters", "start_ms"): 1000,
    ("clusters", "idle_mb"): 140,
    ("tls-certificates", "start_ms"): 3000,
    ("tls-certificates", "idle_mb"): 150,
}

COLUMNS = [
    ("cpu_us", "CPU us/request", "{:.1f}"),
    ("rate", "requests/s", "{:,.0f}"),
    ("p99", "p99 ms", "{:.2f}"),
    ("start_ms", "start ms", "{:.0f}"),
    ("idle_mb", "idle RSS MB", "{:.1f}"),
    ("loaded_mb", "loaded RSS MB", "{:.1f}"),
    ("connection_kb", "idle connection KB", "{:.1f}"),
    ("errors", "errors", "{:.0f}"),
]


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratio(samples, work, mine, theirs, key):
    """The median over the rounds of mine divided by theirs, both of one round."""
    both = zip(samples.get((work, mine), []), samples.get((work, theirs), []))
    return median([a[key] / b[key] for a, b in both if a.get(key) and b.get(key)])


def table(samples, work, peers):
    shown = [column for column in COLUMNS if any(s.get(column[0]) is not None for p in peers for s in samples.get((work, p), []))]
    lines = ["| peer | " + " | ".join(title for _, title, _ in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for peer in peers:
        rounds = samples.get((work, peer), [])
        if rounds:
            cells = [(median([s.get(key) for s in rounds]), form) for key, _, form in shown]
            lines.append(f"| {peer} | " + " | ".join("" if v is None else form.format(v) for v, form in cells) + " |")
    return lines


def ratios(samples, work, peers):
    lines = []
    key, of = ("connection_kb", "memory of a connection") if work == "tls-idle" else ("cpu_us", "CPU per request")
    for peer in peers:
        value = ratio(samples, work, "nuncio", peer, key) if peer != "nuncio" else None
        if value is not None:
            bar = BARS.get((work, peer))
            verdict = "" if bar is None else f", bar {bar:.2f}: {'met' if value <= bar else 'MISSED'}"
            lines.append(f"- {of}, nuncio / {peer}: {value:.2f}{verdict}")
    return lines


def of_first_and_last(samples, peers):
    """What the last of the many routes costs, by the first."""
    lines = []
    for peer in peers:
        pairs = zip(samples.get(("route-last", peer), []), samples.get(("route-first", peer), []))
        value = median([last["cpu_us"] / first["cpu_us"] for last, first in pairs if last["cpu_us"] and first["cpu_us"]])
        if value is not None:
            verdict = f", bar 1.15: {'met' if value <= 1.15 else 'MISSED'}" if peer == "nuncio" else ""
            lines.append(f"- last route / first route, {peer}: {value:.2f}{verdict}")
    return lines


def summary(samples, works, peers):
    """One line for each work: what a request costs nuncio, and that by what it costs the others."""
    others = [p for p in peers if p != "nuncio"]
    lines = ["| work | CPU us/request | " + " | ".join(f"/ {p}" for p in others) + " |", "|---" * (len(others) + 2) + "|"]
    for work in works:
        cost = median([s.get("cpu_us") for s in samples.get((work["name"], "nuncio"), [])])
        if cost is not None:
            found = [ratio(samples, work["name"], "nuncio", peer, "cpu_us") for peer in others]
            cells = " | ".join("" if value is None else f"{value:.2f}" for value in found)
            lines.append(f"| {work['what']} | {cost:.1f} | {cells} |")
    return lines


def limits(samples, work):
    """How nuncio keeps its limits of memory and time."""
    lines = []
    for key, title, form in COLUMNS:
        limit = LIMITS.get((work, key))
        value = median([s.get(key) for s in samples.get((work, "nuncio"), [])])
        if limit is not None and value is not None:
            lines.append(f"- {title}, nuncio: {form.format(value)}, bar {limit}: {'met' if value <= limit else 'MISSED'}")
    return lines


def render(samples, works, peers, how):
    lines = ["# nuncio beside Envoy, HAProxy and nginx", "", how, "", *summary(samples, works, peers), ""]
    for work in works:
        lines += [f"## {work['name']}: {work['what']}", "", *table(samples, work["name"], peers), ""]
        found = ratios(samples, work["name"], peers) + limits(samples, work["name"])
        if work["name"] == "route-last":
            found += of_first_and_last(samples, peers)
        lines += [*found, ""] if found else []
    return "\n".join(lines)

"""What a profile of a step says: kernels launched, time between them, the longest. From libtorch's trace and from ncu's table."""
import csv
import io
import json

# What occupies the device in a trace; on a CPU the operations stand in, those alone that no other one called.
ON_DEVICE, ON_HOST = {"kernel", "gpu_memcpy", "gpu_memset"}, {"cpu_op"}
# So many kernels are listed.
LONGEST = 10
# Of each kernel: what ncu reads in one run of it. Shares of peaks would take several, each with memory saved and put back.
TIME, READ, WRITTEN = "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"
METRICS = [TIME, READ, WRITTEN, "launch__registers_per_thread", "launch__grid_size"]


def longest(rows):
    """The kernels that take most of the time, by name: count, milliseconds, share."""
    by_name, whole = {}, sum(duration for _, duration in rows) or 1
    for name, duration in rows:
        count, time = by_name.get(name, (0, 0.0))
        by_name[name] = (count + 1, time + duration)
    most = sorted(by_name.items(), key=lambda item: -item[1][1])[:LONGEST]
    return [{"kernel": name[:200], "count": count, "ms": round(time / 1e3, 4), "share": round(time / whole, 3)}
            for name, (count, time) in most]


def of_trace(text, device):
    """One step from a trace in Chrome's format (times in microseconds)."""
    wanted = ON_DEVICE if device == "cuda" else ON_HOST
    events = sorted(((event["ts"], event["ts"] + event["dur"], event["name"], event["cat"]) for event in json.loads(text)["traceEvents"]
                     if event.get("ph") == "X" and event.get("cat") in wanted), key=lambda event: (event[0], -event[1]))
    if not events:
        raise ValueError(f"the trace has no events of {', '.join(sorted(wanted))}")
    rows, busy, gaps, until = [], 0.0, [], events[0][0]
    for start, end, name, category in events:
        if category == "cpu_op" and end <= until:
            continue  # called by the one before
        if start > until:
            gaps.append(start - until)
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
        rows.append((name, end - start))
    span = until - events[0][0]
    return {"launches": len(rows), "span_ms": round(span / 1e3, 3), "busy_ms": round(busy / 1e3, 3), "gaps": len(gaps),
            "gaps_ms": round(sum(gaps) / 1e3, 3), "longest_gap_us": round(max(gaps, default=0.0), 1), "longest": longest(rows)}


def of_ncu(text):
    """What ncu printed with --csv --page raw --print-units base: a row for each launch."""
    lines = text.splitlines()
    first = next((at for at, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        raise ValueError("ncu printed no table")
    table = list(csv.DictReader(io.StringIO("\n".join(line for line in lines[first:] if line.startswith('"')))))
    rows = [row for row in table if row["ID"].strip()]  # the units have no number
    if not rows:
        raise ValueError("ncu's table has no rows")

    def number(row, name):
        try:
            return float((row.get(name) or "").replace(",", ""))
        except ValueError:
            return 0.0

    times = [(row["Kernel Name"], number(row, TIME) / 1e3) for row in rows]
    slowest = sorted(rows, key=lambda row: -number(row, TIME))[:LONGEST]
    return {"launches": len(rows), "busy_ms": round(sum(time for _, time in times) / 1e3, 3),
            "dram_gb": round(sum(number(row, READ) + number(row, WRITTEN) for row in rows) / 1e9, 3), "longest": longest(times),
            "launches_by_time": [{"kernel": row["Kernel Name"][:200], **{name: number(row, name) for name in METRICS}} for row in slowest]}

"""The check on one page of Markdown: every block, what failed and why, and the figures."""
import statistics

import traces


def table(head, rows):
    """Lines of a Markdown table; nothing without rows."""
    if not rows:
        return []
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in cells), ""]


def found_in(records, block, kind):
    """What each check of a block found, by its name, where it is of this kind: one that failed may have found anything."""
    return {check["check"]: check["found"] for record in records if record["block"] == block for check in record["checks"]
            if isinstance(check["found"], kind)}


def page(records, setting):
    """All of it."""
    out = ["## GPU check" if setting.cuda else "## GPU check, rehearsed on a CPU: no figure here says anything about a GPU", ""]
    out += machine(found_in(records, "machine", dict).get("the machine"))
    out += summary(records)
    out += conformance(found_in(records, "correctness", dict))
    out += speed(records)
    out += convolutions(found_in(records, "convolutions", list).get("19 shapes") or [])
    out += step(found_in(records, "profile", dict))
    return "\n".join(out)


def summary(records):
    """Every block in a line, and what did not hold."""
    return table(["block", "outcome", "seconds", "bound", "checks", "what was seen"], [
        [record["block"], record["outcome"], f"{record['seconds']:.1f}", f"{record['bound_s']:.0f}", counts(record), (record["why"] or "")[:240]]
        for record in records]) + failures(records)


def counts(record):
    held = sum(check["outcome"] == "passed" for check in record["checks"])
    return f"{held} of {len(record['checks'])}"


def machine(found):
    if not found:
        return []
    first = [f"{found.get('gpu', 'no GPU')}", f"driver {found.get('before', {}).get('driver_version', 'none')}", f"torch {found['torch']}",
             f"cuDNN {found['cudnn']}", f"NCCL {found.get('nccl', 'not asked')}", f"commit {found['commit']}"]
    rates = f"a {found['matrix_side']}^3 product in bf16 {found['matrix_tflop_per_s']} TFLOP/s, a copy {found['copy_tb_per_s']} TB/s"
    return [", ".join(first) + "; " + rates + ".", ""]


def failures(records):
    rows = [[record["block"], check["check"], check["outcome"], check["why"][:700]] for record in records for check in record["checks"]
            if check["outcome"] in ("failed", "skipped")]
    return (["What did not hold:", ""] + table(["block", "check", "outcome", "why"], rows)) if rows else []


def conformance(found):
    """The worst relative error of each kind of tensor."""
    rows = {name.removeprefix("conform "): worst for name, worst in found.items() if name.startswith("conform ") and worst}
    kinds = sorted({kind for worst in rows.values() for kind in worst})
    return table(["conform", *kinds], [[name, *(f"{worst[kind]:.1e}" if kind in worst else "" for kind in kinds)] for name, worst in rows.items()])


def speed(records):
    """began's step and PyTorch's, and the ratio of began's best to each."""
    ours, theirs = {}, {}
    for row in figures(records, "bench"):
        ours.setdefault(row["batch"], []).append((f"began {row['precision']}, {row['upsampling']} and {row['skip']}", row))
    for row in figures(records, "pytorch"):
        theirs.setdefault(row["batch"], []).append((f"PyTorch {row['variant']}", row))
    out = []
    for batch in sorted(set(ours) | set(theirs)):
        best = max((row["images_per_s"] for name, row in ours.get(batch, []) if name.startswith("began bf16")), default=None)
        rows = sorted(ours.get(batch, []) + theirs.get(batch, []), key=lambda item: -item[1]["images_per_s"])
        out += table([f"batch {batch}", "images/s", "ms a step", "began's best bf16 over it"], [
            [name, f"{row['images_per_s']:.1f}", f"{row['ms_per_step']:.2f}", f"{best / row['images_per_s']:.2f}" if best else ""]
            for name, row in rows])
    stages = next((row["stages_ms"] for row in figures(records, "bench") if row.get("stages_ms")), [])
    return out + table(["stage", "ms"], stages)


def figures(records, block):
    """The rows that programs of a block printed and that have a speed."""
    rows = [row for rows in found_in(records, block, list).values() for row in rows]
    return [row for row in rows if isinstance(row, dict) and "images_per_s" in row]


def convolutions(rows):
    """TFLOP/s of each shape and operation, the deterministic kernel and the best, and the deterministic one's name."""
    by_place = {}
    for row in rows:
        if isinstance(row, dict) and "ms" in row:
            by_place.setdefault((row["batch"], row["convolution"], row["operation"]), {})[row["mode"]] = row
    shown, lost = [], {}
    for (batch, name, operation), modes in by_place.items():
        first, best = modes.get("deterministic"), modes.get("benchmark")
        if first and best:
            lost.setdefault(batch, []).append((first["ms"], best["ms"]))
            kernel = first["kernels"][0][0] if first["kernels"] else ""
            shown.append([batch, name, operation, first["ms"], first["tflop_per_s"], best["tflop_per_s"], f"{first['ms'] / best['ms']:.2f}",
                          "yes" if first["host_ms"] > first["ms"] else "", kernel[:70]])
    out = table(["batch", "convolution", "operation", "ms", "TFLOP/s", "TFLOP/s, benchmark mode", "slower by", "the host is slower", "kernel"], shown)
    for batch, pairs in lost.items():
        out.append(f"Batch {batch}: {sum(a for a, _ in pairs):.3f} ms for one of each with deterministic kernels, {sum(b for _, b in pairs):.3f} ms "
                   f"with the fastest; median ratio {statistics.median(a / b for a, b in pairs):.2f}.")
    return out + [""] * bool(lost)


def moved(row):
    return row[traces.READ] + row[traces.WRITTEN]


def step(found):
    out = []
    trace, ncu = found.get("a trace of one step"), found.get("ncu over one step")
    if trace:
        out += [f"One step: {trace['launches']} launches over {trace['span_ms']} ms, {trace['busy_ms']} ms busy, {trace['gaps_ms']} ms in "
                f"{trace['gaps']} gaps (the longest {trace['longest_gap_us']} us); untraced it takes {trace['ms_per_step']} ms.", ""]
        out += table(["kernel", "count", "ms", "share"], [[row["kernel"][:90], row["count"], row["ms"], row["share"]] for row in trace["longest"]])
    if ncu:
        out += [f"ncu: {ncu['launches']} launches, {ncu['busy_ms']} ms, {ncu['dram_gb']} GB through memory.", ""]
        out += table(["kernel", "us", "MB through memory", "TB/s", "registers", "blocks"], [
            [row["kernel"][:90], round(row[traces.TIME] / 1e3, 2), round(moved(row) / 1e6, 2), round(moved(row) / max(row[traces.TIME], 1) / 1e3, 2),
             round(row["launch__registers_per_thread"]), round(row["launch__grid_size"])] for row in ncu["launches_by_time"]])
    return out

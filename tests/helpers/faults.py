"""The table of what `bench_faults.py` has tried, as it prints it and docs/MEASURED.md shows it."""


def table(found: dict) -> str:
    """The rows of what was tried and how much of it held."""
    lines = ["| tried | how often | held |", "|---|---|---|"]
    if k := found.get("kills"):
        lines.append(
            f"| kill -9 of a training, {k['in_the_first_second']:,} in its first second, "
            f"{k['in_a_write']:,} in a write | {k['kills']:,} | {k['stuck']} stuck, "
            f"{k['other_bits']} of {k['trainings']:,} trainings with other bits |"
        )
    if d := found.get("disks"):
        each = ", ".join(f"{name} {n}" for name, n in d["commands"].items())
        held = "all" if not d["faults"] else "not all"
        lines.append(f"| the n-th change on the disk fails: {each} | every n | {held} |")
    for name, f in found.get("files", {}).items():
        held = f["inputs"] - len(f["faults"])
        lines.append(
            f"| {name} | {f['inputs']:,}: {f['refused']:,} refused in a line, {f['read']:,} read | "
            f"{held:,}; at most {f['peak_mb']:.1f} MB |"
        )
    return "\n".join(lines)

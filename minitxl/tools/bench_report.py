"""Tables of the benchmark: of one run, and of two side by side."""

from __future__ import annotations

from minitxl.tools.bench import SHAPES, Results, Row


def table(results: Results) -> str:
    """Return the rows of a run, with rates, and ratios to the bare product and to PyTorch."""
    machine, by_key = results.machine, {row.key: row for row in results.rows}
    shapes = [name for name in SHAPES if any(row.shape == name for row in results.rows)]
    peaks = {row.backend: [] for row in results.rows}  # rates of the bare product
    for row in results.rows:
        bare = row.flop / min(row.seconds) if row.what == "gemm" else 0.0
        peaks[row.backend].append(max(row.gemm_rate, bare))
    head = f"{'':<34}{'median':>9}{'fastest':>9}{'spread':>8}{'tokens/s':>10}"
    head += f"{'GFLOP/s':>9}{'of gemm':>9}{'/PyTorch':>10}{'peak':>10}"
    lines = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores; NumPy {machine.get('numpy')}",
        *(f"  {name}: {SHAPES[name].note}" for name in shapes),
        head,
    ]
    for row in results.rows:
        torch = by_key.get((*row.key[:3], "PyTorch"))
        rate, peak = row.flop / row.median, max(peaks[row.backend])
        cells = (
            f"{_name(row):<34}",
            f"{_seconds(row.median):>9}",
            f"{_seconds(min(row.seconds)):>9}",
            f"{spread(row):>8.0%}",
            f"{row.tokens / row.median:>10,.0f}" if row.tokens else " " * 10,
            f"{rate / 1e9:>9,.0f}" if row.flop else " " * 9,
            f"{rate / peak:>9.0%}" if row.flop and peak else " " * 9,
            f"{row.median / torch.median:>10.2f}" if torch and torch is not row else " " * 10,
            f"{row.peak_bytes / 1e6:>7,.0f} MB" if row.peak_bytes else "",
        )
        lines.append("".join(cells).rstrip())
    lines += [
        "spread: the middle half of the repeats, over the median; of gemm: over the fastest bare",
        "matrix product of the run, on all threads; peak: what NumPy held, parameters included",
    ]
    return "\n".join(lines)


def comparison(old: Results, new: Results) -> str:
    """Return old and new medians and their ratio, of all rows that both runs have.

    The second ratio has the machine's own state taken out: both times are counted in bare products,
    the fastest of the same minutes.
    """
    before, after = ({r.key: r for r in run.rows if r.what != "gemm"} for run in (old, new))
    common = [row for key, row in after.items() if key in before]
    lines = [f"{'':<34}{'old':>9}{'new':>9}{'new/old':>9}{'by gemm':>9}"]
    for row in common:
        was = before[row.key]
        ratio, times = (
            row.median / was.median,
            f"{_seconds(was.median):>9}{_seconds(row.median):>9}",
        )
        by_gemm = f"{ratio / _slower(was, row):>9.2f}" if row.gemm_rate else " " * 9
        lines.append(f"{_name(row):<34}{times}{ratio:>9.2f}{by_gemm}  {verdict(was, row)}")
    for which, rows, others in (("new", after, before), ("old", before, after)):
        missing = [_name(row) for key, row in rows.items() if key not in others]
        if missing:
            lines.append(f"only in the {which} one: {', '.join(missing)}")
    return "\n".join(lines + _differences(old, new))


def verdict(was: Row, row: Row) -> str:
    """Say whether the difference of two rows is more than noise.

    Noise makes only slower. So a difference is one where even the fastest repeat of the slower row
    lies above three quarters of the other's: as they are, and with the old ones scaled to the new
    state of the machine.
    """
    factors = (1.0, _slower(was, row))
    if all(row.quartiles[1] < factor * min(was.seconds) for factor in factors):
        return "faster"
    if all(min(row.seconds) > factor * was.quartiles[1] for factor in factors):
        return "slower"
    return "within the noise"


def _slower(was: Row, row: Row) -> float:
    """How many times as long the bare product takes beside the new row; 1 where not known."""
    return was.gemm_rate / row.gemm_rate if was.gemm_rate and row.gemm_rate else 1.0


def spread(row: Row) -> float:
    """Return the width of the middle half of the repeats as a part of their median."""
    low, high = row.quartiles
    return (high - low) / row.median


def _differences(old: Results, new: Results) -> list[str]:
    """What besides the code may have made a difference."""
    lines = []
    for name in ("cpu", "cores", "threads", "numpy", "blas", "torch"):
        was, now = old.machine.get(name), new.machine.get(name)
        if was != now:
            lines.append(f"careful: {name} was {was}, is {now}")
    return lines


def _name(row: Row) -> str:
    where = "" if row.backend == "cpu" else f"{row.backend} "
    return f"{where}{row.what} {row.shape} {row.variant}"


def _seconds(seconds: float) -> str:
    """0.1234 -> "123 ms", 12.34 -> "12.3 s"."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"

"""The picture of the memory-ladder experiment, drawn from its stored results alone."""

from __future__ import annotations

from minitxl.viz.theme import HIDDEN, INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, *_ = SEGMENT_COLOURS
LOOK = {"plain": (BLUE, "o", "-"), "clamp_len": (ORANGE, "s", "--")}


@drawing(10.4, 4.5, top=0.93, bottom=0.02)
def draw_memory_ladder(figure, results: dict) -> tuple[str, str]:
    """Draw bits against the memory at evaluation, for each length in training, every seed.

    results: what `minitxl.experiments.memory_ladder.run` returned, as JSON has it.
    """
    models, mem_lens = results["models"], results["settings"]["mem_lens"]
    axes = []
    for i, model in enumerate(models):
        place = (0.075 + 0.31 * i, 0.24, 0.28, 0.58)
        ax = figure.add_axes(place, sharey=axes[0] if axes else None)
        axes.append(ax)
        _panel(ax, model, mem_lens)
        if i:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("bits more than with\nthe trained memory")
    for (option, (colour, *_)), y in zip(LOOK.items(), (0.93, 0.85), strict=True):
        text = "no option" if option == "plain" else option
        look = dict(color=colour, weight="bold", ha="left")
        axes[-1].text(0.03, y, text, transform=axes[-1].transAxes, **look)
    return _words(results)


def _panel(ax, model: dict, mem_lens: list) -> None:
    at = {m: i for i, m in enumerate(mem_lens)}  # evenly, for 0 has no logarithm
    trained = model["tgt_len"]
    ax.axhline(0, color=MUTED, lw=0.8, zorder=1)
    ax.axvspan(at[trained], len(at) - 0.6, color=HIDDEN, lw=0, zorder=0)
    ax.axvline(at[trained], color=INK, lw=1, zorder=1)
    for option, (colour, mark, line) in LOOK.items():
        points = [p for p in model["points"] if p["option"] == option]
        x = [at[p["mem_len"]] for p in points]
        ax.plot(x, [p["minus_trained"]["mean"] for p in points], line, color=colour, lw=1.8)
        for place, p in zip(x, points, strict=True):
            y = p["minus_trained"]["by_seed"]
            ax.plot([place] * len(y), y, mark, color=colour, ms=4, mew=0, alpha=0.7)
    ax.set_xticks(range(len(at)), [str(m) for m in mem_lens], size=8.5)
    ax.set_xlim(-0.4, len(at) - 0.6)
    ax.set_title(f"Trained with T = M = {trained}", pad=8)
    ax.set_xlabel("memory at evaluation")
    level_lines(ax)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    at_twice = []
    for model in results["models"]:
        t = model["tgt_len"]
        p = next(p for p in model["points"] if (p["option"], p["mem_len"]) == ("plain", 2 * t))
        at_twice.append(f"{p['minus_trained']['mean']:+.3f}")
    lengths = ", ".join(str(m["tgt_len"]) for m in results["models"])
    title = (
        f"Twice the trained memory: {', '.join(at_twice)} bits for models trained with {lengths}"
    )
    note = (
        f"{s['n_layer']} layers, D = {s['d_model']}, {s['steps']:,} steps of "
        f"{s['tokens_per_step']:,} characters, {s['seeds']} seeds (dots; lines: means); "
        f"{s['n_tokens']:,} characters of test text in segments of T.\nclamp_len: distances beyond "
        "the longest of training count as that one. Grey: longer than trained."
    )
    return title, note

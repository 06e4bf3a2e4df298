// The text as one sees it: rows of cells, segment below segment, the memory's edge above the one that
// is read. Over each character stand the states that are kept of it, one box a layer; under it the
// bits that it cost, filled as it was read, hollow as it is compared with.

const COLUMNS = 64; // characters of a row; segments that fit share one
const SHOWN = 320; // characters above the edge, at most

/** Rows of a text: [{ parts: [{ start, from, to, size }], current }], the last ones first to be kept.
 *  `starts`: each token's segment start; the current segment begins at `start` and has room for T. */
function rowsOf(starts, start, T, columns = COLUMNS) {
  const segments = [];
  for (let t = 0; t < starts.length; t++) {
    if (t === 0 || starts[t] !== starts[t - 1]) segments.push({ start: t, end: t + 1 });
    else segments.at(-1).end = t + 1;
  }
  if (!segments.length || segments.at(-1).start !== start) segments.push({ start, end: start });
  const rows = [];
  for (const segment of segments) {
    const current = segment.start === start;
    const end = current ? segment.start + T : segment.end;
    for (let from = segment.start; from < end; from += columns) {
      const to = Math.min(end, from + columns);
      const part = { start: segment.start, from, to, size: to - from };
      const last = rows.at(-1);
      const room = last && !last.current && !current && last.size + part.size <= columns;
      if (room && from === segment.start) {
        last.parts.push(part);
        last.size += part.size;
      } else rows.push({ parts: [part], size: part.size, current });
    }
  }
  return rows;
}

/** The view; `on`: what is done when one points, clicks or moves; it draws only what has changed. */
class TextView {
  constructor(world, nLayer, on) {
    this.world = world;
    this.cells = []; // by position
    this.rows = new Map(); // by first position
    this.grid = make("div", {
      class: "txl-grid",
      role: "grid",
      "aria-label": `The text by segments. Arrow keys choose a ${world.unit}.`,
    });
    this.links = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.links.setAttribute("class", "txl-links");
    this.links.setAttribute("aria-hidden", "true");
    this.edge = make("div", { class: "txl-edge" }, make("span", {}, "memory’s edge"));
    this.end = make("div", { class: "txl-end" }, make("span", {}, ""));
    this.grid.classList.add(world.unit === "character" ? "txl-characters" : "txl-words");
    this.grid.style.setProperty("--layers", nLayer);
    this.grid.setAttribute("data-lm-suppress-shortcuts", ""); // JupyterLab's arrow keys
    this.#listen(on);
  }

  #listen(on) {
    const at = (event) => {
      const cell = event.target.closest?.(".txl-cell");
      return cell && cell.dataset.at !== undefined ? Number(cell.dataset.at) : null;
    };
    let dragged = null;
    this.grid.addEventListener("pointerover", (event) => {
      const t = at(event);
      if (t === null) return;
      if (dragged !== null && event.buttons === 1 && t !== dragged) on.range(dragged, t);
      else on.point(t);
    });
    this.grid.addEventListener("pointerdown", (event) => (dragged = at(event)));
    this.grid.addEventListener("click", (event) => {
      const t = at(event);
      if (t !== null && t === dragged) on.choose(t, event.shiftKey || event.ctrlKey || event.metaKey);
      dragged = null;
    });
    this.grid.addEventListener("keydown", (event) => on.key(event));
  }

  /** Lay the rows out anew: after reading, taking back, or a change of lengths. */
  layOut(state, { animate = false } = {}) {
    const { starts, start, memoryStart, setting, pending } = (this.state = state);
    const columns = this.grid.clientWidth && this.grid.clientWidth < 620 ? 32 : COLUMNS;
    const all = rowsOf(starts, start, setting.T, columns);
    const held = all.filter((row) => row.current || row.parts.at(-1).to > memoryStart);
    const lost = all.length - held.length;
    const shown = all.slice(Math.max(0, lost - Math.max(1, 4 - held.length))); // some of what is lost
    const current = shown.filter((row) => row.current);
    const above = shown.filter((row) => !row.current);
    const hidden = Math.max(0, above.length - SHOWN / columns);
    const places = animate ? new Map([...this.rows].map(([key, row]) => [key, row.whole.offsetTop])) : null;
    const old = this.rows;
    this.rows = new Map();
    const parts = [this.links];
    const ages = segmentAges(state);
    let ended = false;
    for (const row of [...above.slice(hidden), ...current]) {
      const key = row.parts[0].from;
      if (row.current && !parts.includes(this.edge)) parts.push(this.edge);
      if (!row.current && !ended && row.parts.at(-1).to > memoryStart) {
        parts.push(this.end);
        ended = true;
      }
      const view = old.get(key) ?? this.#row();
      view.row = row;
      view.whole.classList.toggle("txl-current", row.current);
      this.#fill(view, row, state, pending, ages);
      this.rows.set(key, view);
      parts.push(view.whole);
    }
    const more = hidden ? `, ${hidden} row${hidden === 1 ? "" : "s"} more above` : "";
    const kept = start - memoryStart;
    this.edge.firstChild.textContent = start
      ? `memory’s edge: ${kept} of ${setting.M} kept above${more}`
      : "the text begins here: no memory yet";
    this.end.classList.toggle("txl-nothing", memoryStart === 0);
    this.end.firstChild.textContent = memoryStart === 0 ? "" : "memory’s far end";
    this.edge.classList.toggle("txl-empty", kept === 0);
    if (parts.some((part, i) => this.grid.children[i] !== part) || this.grid.children.length !== parts.length) {
      this.grid.replaceChildren(...parts);
    }
    if (places) this.#slide(places);
  }

  /** Rows move up from where they were: the segment's boxes slide into the memory. */
  #slide(places) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const [key, view] of this.rows) {
      const before = places.get(key);
      const by = before === undefined ? 0 : before - view.whole.offsetTop;
      if (by) view.whole.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }],
        { duration: 420, easing: "ease-in-out" });
    }
  }

  #row() {
    const name = make("span", { class: "txl-name" });
    const bar = make("span", { class: "txl-bar" });
    const share = make("span", { class: "txl-share" });
    const line = make("div", { class: "txl-line", role: "row" });
    const whole = make("div", { class: "txl-row", role: "presentation" }, name, line,
      make("span", { class: "txl-shares" }, bar, share));
    return { name, bar, share, line, whole };
  }

  /** The row's cells, where they are not those that it has. */
  #fill(view, row, state, pending, ages) {
    const { start, starts, memoryStart } = state;
    const n = starts.length;
    const waiting = row.current ? pending.slice(0, Math.max(0, row.parts.at(-1).to - n)).join() : "";
    const aged = row.parts.map((p) => [p.from, p.to, row.current ? 0 : ages.get(p.start), p.to <= memoryStart]);
    const key = `${aged}|${Math.min(n, row.parts.at(-1).to)}|${waiting}`;
    const ends = () => row.parts.flatMap((p) => [this.cells[p.from], this.cells[Math.min(p.to, n) - 1]]);
    if (view.key === key && view.ends.every((cell, i) => cell && cell === ends()[i])) return;
    const runs = row.parts.map((part) => {
      const run = make("span", { class: "txl-run", role: "presentation" });
      const age = row.current ? 0 : ages.get(part.start);
      run.style.setProperty("--hue", segmentColour(this.world, age));
      run.classList.toggle("txl-lost", !row.current && part.to <= memoryStart);
      for (let t = part.from; t < part.to; t++) run.append(t < n ? this.#cell(t) : this.#slot(pending[t - n]));
      return run;
    });
    view.line.style.setProperty("--columns", this.grid.clientWidth < 620 ? 32 : COLUMNS);
    view.line.replaceChildren(...runs);
    const [far, near] = [row.parts[0], row.parts.at(-1)].map((part) => ages.get(part.start));
    const lost = !row.current && near !== undefined && row.parts.at(-1).to <= memoryStart;
    view.lost = lost;
    view.name.textContent = row.current
      ? row.parts[0].from === start ? "this segment" : "" // a long one takes more rows
      : lost ? "fallen out" : far === near ? segmentName(far) : `${far} … ${segmentName(near)}`;
    view.name.style.color = lost ? "" : segmentColour(this.world, row.current ? 0 : near);
    view.bar.style.background = segmentColour(this.world, row.current ? 0 : near);
    Object.assign(view, { key, ends: ends() });
  }

  #cell(t) {
    return (this.cells[t] ??= this.#newCell(t));
  }

  #newCell(t) {
    const token = this.state.tokens[t];
    const bits = make("i", { class: "txl-bits" }, make("i"), make("i")); // shown in the current segment
    const sign = make("b", {}, this.world.shown[token]);
    const cell = make("span", { class: "txl-cell", role: "gridcell", tabindex: "-1", "data-at": t },
      make("i", { class: "txl-boxes" }), sign, bits);
    return Object.assign(cell, { sign, boxes: cell.firstChild, pair: bits.children });
  }

  #slot(token) {
    const sign = make("b", {}, token === undefined ? " " : this.world.shown[token]);
    return make("span", { class: "txl-cell txl-slot" }, make("i", { class: "txl-boxes" }), sign,
      make("i", { class: "txl-bits" }));
  }

  /** Tokens n ... are gone. */
  forget(n) {
    this.cells.length = Math.min(this.cells.length, n);
  }

  /** Bits under the tokens from ... to. */
  measure(state, from) {
    for (let t = from; t < state.tokens.length; t++) {
      const cell = this.#cell(t);
      const [main, other] = [state.bits[t], state.otherBits[t]];
      [main, other].forEach((x, i) => cell.pair[i].style.setProperty("--bits", Math.min(1, (x || 0) / 8)));
      const says = Number.isNaN(main) ? "the first" : `it cost ${main.toFixed(1)} bits; compared, ${other.toFixed(1)}`;
      cell.pair[0].parentNode.title = says;
      cell.setAttribute("aria-label", `${this.world.spoken[state.tokens[t]]}, ${says}`);
    }
  }

  /** Colour the cells: by what was looked at, or, where nothing is, by the bits that each cost. */
  paint(state, look) {
    const ages = segmentAges(state);
    const chosen = new Set(look?.at ?? []);
    for (const view of this.rows.values()) {
      let share = 0;
      for (const part of view.row.parts) {
        const age = view.row.current ? 0 : ages.get(part.start);
        for (let t = part.from; t < Math.min(part.to, state.tokens.length); t++) {
          const cell = this.#cell(t);
          const weight = look ? (look.weights[t] ?? 0) : 0;
          share += weight;
          const seen = !look || (t >= look.first && t <= Math.max(...look.at));
          const depth = look ? strength(weight) : Math.min(1, (state.bits[t] || 0) / 8) * 0.6;
          const key = `${look ? age : "bits"},${seen ? Math.round(64 * depth) : -1}`;
          if (cell.key !== key) {
            cell.key = key;
            cell.classList.toggle("txl-unseen", !seen);
            const colours = look ? segmentLook(this.world, age, depth) : bitsLook(this.world, depth);
            [cell.sign.style.background, cell.sign.style.color] = seen ? colours : ["", ""];
          }
          const me = chosen.has(t);
          if (cell.me !== me) {
            cell.me = me;
            cell.classList.toggle("txl-me", me);
            cell.setAttribute("aria-selected", me);
            cell.tabIndex = me ? 0 : -1;
          }
        }
      }
      view.bar.style.width = `${58 * (look ? share : 0)}px`;
      const empty = view.row.parts[0].from >= state.tokens.length;
      view.share.textContent = view.lost || empty ? "" : look ? percent(share) : meanBits(state, view.row);
    }
    if (!chosen.size && state.tokens.length) this.#cell(state.tokens.length - 1).tabIndex = 0;
    this.#arcs(state, look, ages);
  }

  /** A curve from each token that attends to every key with 2 % of its weight or more. */
  #arcs(state, look, ages) {
    if (!look) return void this.links.replaceChildren();
    const { left, top } = this.grid.getBoundingClientRect();
    const shown = new Set([...this.rows.values()].flatMap((view) => view.row.parts.map((part) => part.start)));
    const place = (t) => {
      if (!shown.has(state.starts[t]) || !this.cells[t]?.isConnected) return null;
      const box = this.cells[t].sign.getBoundingClientRect();
      return { x: box.left - left + box.width / 2, top: box.top - top, bottom: box.bottom - top };
    };
    const paths = [];
    for (const t of look.at.slice(-3)) {
      const me = place(t);
      for (let key = look.first; me && key < t; key++) {
        const to = look.weights[key] >= 0.02 ? place(key) : null;
        if (!to) continue;
        const half = (me.top + to.bottom) / 2;
        const curve = to.top === me.top
          ? `Q${(me.x + to.x) / 2},${me.top - 16} ${to.x},${me.top}`
          : `C${me.x},${half} ${to.x},${half} ${to.x},${to.bottom}`;
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", `M${me.x},${me.top} ${curve}`);
        path.style.stroke = segmentColour(this.world, ages.get(state.starts[key]) ?? 0);
        path.style.strokeWidth = 1 + 4 * look.weights[key];
        paths.push(path);
      }
    }
    this.links.replaceChildren(...paths);
  }
}

/** How many segments back each segment lies; by its start. */
function segmentAges({ starts, start }) {
  const all = [...new Set(starts.filter((s) => s !== start)), start];
  return new Map(all.map((s, i) => [s, all.length - 1 - i]));
}

function meanBits(state, row) {
  const { from } = row.parts[0];
  const cost = state.bits.slice(from, row.parts.at(-1).to).filter((x) => x === x);
  if (!cost.length) return "";
  return `${(cost.reduce((sum, x) => sum + x, 0) / cost.length).toFixed(2)} bits`;
}

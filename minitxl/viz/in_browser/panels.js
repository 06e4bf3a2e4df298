// The parts around the text: controls, what comes next, layers and heads, what the memory was worth.

const NAMES = { a: "query, key", b: "query, distance", c: "key", d: "distance" }; // of the terms
const MEANING = {
  a: "query and key: what is sought, what is there",
  b: "query and distance: what is sought, how far back",
  c: "key alone: what is there, whoever asks",
  d: "distance alone: how far back, whoever asks",
};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function button(text, says, act) {
  const name = /[a-z]/.test(text) ? {} : { "aria-label": says }; // a sign alone is no name
  const made = make("button", { type: "button", class: "txl-button", title: says, ...name }, text);
  made.addEventListener("click", act);
  return made;
}

/** A slider with its name and value; `show` puts the value into words. */
function slider(name, { min, max, step = 1, value }, show, act) {
  const input = make("input", { type: "range", min, max, step, value, "aria-label": name,
    "data-lm-suppress-shortcuts": "" });
  const output = make("output", { class: "txl-value" }, show(value));
  const set = (to) => {
    input.value = to;
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  set(value);
  input.addEventListener("input", () => {
    set(input.value);
    act(Number(input.value));
  });
  return { whole: make("label", {}, `${name} `, input, output), set, input };
}

function choice(name, options, act) {
  const select = make("select", { "aria-label": name, "data-lm-suppress-shortcuts": "" },
    ...options.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => act(select.value));
  return select;
}

/** A percentage for narrow columns. */
const short = (p) => (p < 0.0005 ? "0" : (100 * p).toFixed(p < 0.0995 ? 1 : 0)) + " %";

/** The likeliest next characters: a full bar as it is read, a hollow one as it is compared with. */
class NextPanel {
  constructor(world, take) {
    this.world = world;
    this.title = make("h3", {}, `Next ${world.unit}`);
    this.rows = Array.from({ length: 6 }, () => {
      const row = { sign: make("b"), main: make("i"), other: make("i"), text: make("span") };
      row.whole = make("button", { type: "button", class: "txl-guess" }, row.sign,
        make("span", { class: "txl-bars" }, row.main, row.other), row.text);
      row.whole.addEventListener("click", () => row.token !== undefined && take(row.token));
      return row;
    });
    this.legend = make("p", { class: "txl-small" });
    this.whole = make("section", { class: "txl-panel" }, this.title,
      make("div", { class: "txl-next" }, ...this.rows.map((row) => row.whole)), this.legend);
  }

  /** `came`: the token that did come, if it is known; `names`: of the two bars. */
  show({ next, nextOther }, after, came, names) {
    const order = [...next.keys()].sort((x, y) => next[y] - next[x]);
    const list = order.slice(0, 5);
    if (came !== undefined && !list.includes(came)) list.push(came);
    this.title.textContent = `Next, after “${after}”`;
    const most = Math.max(0.3, ...list.map((token) => Math.exp(Math.max(next[token], nextOther[token]))));
    this.rows.forEach((row, i) => {
      const token = (row.token = list[i]);
      row.whole.hidden = token === undefined;
      if (row.whole.hidden) return;
      const [p, q] = [Math.exp(next[token]), Math.exp(nextOther[token])];
      row.sign.textContent = this.world.shown[token];
      row.main.style.width = `${(100 * p) / most}%`;
      row.other.style.width = `${(100 * q) / most}%`;
      row.text.textContent = `${short(p)} · ${short(q)}${token === came ? " ✓" : ""}`;
      const says = `${this.world.spoken[token]}: ${percent(p)} ${names[0]}, ${percent(q)} ${names[1]}`;
      row.whole.setAttribute("aria-label", `${says}${token === came ? "; it came" : ""}. Press to read it.`);
    });
    this.legend.replaceChildren(make("i", { class: "txl-key" }), ` ${names[0]} `,
      make("i", { class: "txl-key txl-hollow" }), ` ${names[1]}${came === undefined ? "" : "; ✓ came"}`);
  }
}

/** Every layer and head as a cell that shows a share and chooses it; arrows move inside. */
class HeadsPanel {
  constructor(world, nLayer, nHead, choose) {
    this.buttons = [];
    const table = make("div", { class: "txl-heads", role: "grid", "aria-label": "layer and head",
      "data-lm-suppress-shortcuts": "" });
    table.style.setProperty("--heads", nHead + 1);
    const names = ["head", "mean", ...Array.from({ length: nHead }, (_, h) => `${h + 1}`)];
    table.append(make("div", { class: "txl-headrow", role: "row" },
      ...names.map((name) => make("span", { role: "columnheader" }, name))));
    for (let layer = 0; layer < nLayer; layer++) {
      const cells = Array.from({ length: nHead + 1 }, (_, i) => {
        const cell = make("span", { class: "txl-head", role: "gridcell", tabindex: "-1" });
        this.buttons.push(Object.assign(cell, { layer, head: i - 1 }));
        return cell;
      });
      table.append(make("div", { class: "txl-headrow", role: "row" },
        make("span", { role: "rowheader" }, `layer ${layer + 1}`), ...cells));
    }
    table.addEventListener("click", (event) => {
      const cell = event.target.closest(".txl-head");
      if (cell) choose(cell);
    });
    table.addEventListener("keydown", (event) => {
      const wide = nHead + 1;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
      if (step === undefined) return;
      const to = this.buttons[this.buttons.indexOf(event.target) + step];
      if (to) {
        to.focus();
        choose(to);
      }
      event.preventDefault();
    });
    this.world = world;
    this.whole = make("section", { class: "txl-panel" }, make("h3", {}, "% of weight on the memory"), table);
  }

  show(shares, layer, head) {
    this.buttons.forEach((cell, i) => {
      const chosen = cell.layer === layer && cell.head === head;
      const share = shares ? shares[i] : 0;
      cell.textContent = shares ? Math.round(100 * share) : "";
      const name = cell.head < 0 ? "mean of heads" : `head ${cell.head + 1}`;
      cell.setAttribute("aria-label", `layer ${cell.layer + 1}, ${name}: ${percent(share)} in memory`);
      cell.setAttribute("aria-selected", chosen);
      cell.tabIndex = chosen ? 0 : -1;
      paint(cell, greyLook(this.world, Math.max(share, 0.001)));
    });
  }
}

/** What the memory, or the last change, was worth in this segment. */
class WorthPanel {
  constructor(compareWith, sweep) {
    this.number = make("p", { class: "txl-number" });
    this.sentence = make("p", {});
    this.compare = choice("compare with", [["none", "no memory"], ["before", "before the change"]], compareWith);
    this.most = make("p", {});
    this.sweep = button("every M", "Read this segment with memories of every length", sweep);
    this.whole = make("section", { class: "txl-panel txl-worth" }, make("h3", {}, "What it was worth here"),
      this.number, this.sentence, this.most, make("div", { class: "txl-controls" },
        make("label", {}, "against ", this.compare), this.sweep));
  }

  /** `chosen`: these tokens alone; null: the segment's. */
  show(state, world, chosen) {
    const { unit } = world;
    const last = state.setting;
    const before = state.compare === "before";
    this.compare.options[1].disabled = !last.previous;
    this.compare.value = state.compare;
    let from = before ? last.at : state.start;
    if (!before && from === state.tokens.length && from > 0) from = state.starts[from - 1];
    const places = chosen ?? Array.from({ length: state.tokens.length - from }, (_, i) => from + i);
    const sum = (list) => places.reduce((total, t) => total + (list[t] || 0), 0);
    const [now, other] = [sum(state.bits), sum(state.otherBits)];
    const n = places.length;
    const gain = other - now;
    const sign = gain >= 0 ? "saves" : "costs";
    const what = before ? changed(last) : "the memory";
    this.number.textContent = n ? `${what} ${sign} ${Math.abs(gain).toFixed(1)} bits` : "read on to see";
    this.sentence.textContent = n
      ? `${plural(n, unit)}: ${now.toFixed(1)} bits ${before ? "now" : "with it"}, ${other.toFixed(1)} ` +
        `${before ? "before" : "without"}; ${(Math.abs(gain) / n).toFixed(2)} a ${unit}.`
      : "";
    const change = (t) => Math.abs(state.bits[t] - state.otherBits[t]) || 0;
    const most = places.reduce((a, b) => (change(b) > change(a) ? b : a), places[0]);
    const shown = (t) => world.shown[state.tokens[t]] ?? "";
    this.most.textContent = n && change(most) > 0.05
      ? `Most for “${shown(most)}” after “${[-3, -2, -1].map((d) => shown(most + d)).join("")}”: ` +
        `${short(2 ** -state.bits[most])}, not ${short(2 ** -state.otherBits[most])}.`
      : "";
  }
}

/** Bits against the memory's length: the mean of the segment (line), its last token (dashes). */
function lengthPlot(world, points, M) {
  const [wide, high, left, bottom] = [400, 128, 40, 34];
  const longest = Math.max(...points.map((p) => p.M), 16);
  const most = Math.max(1, ...points.flatMap((p) => [p.mean, p.last]));
  const x = (m) => left + 8 + ((wide - left - 20) * Math.log2(m / 8 + 1)) / Math.log2(longest / 8 + 1);
  const y = (b) => 12 + (high - bottom - 12) * (1 - b / most);
  const path = (name) => points.map((p) => `${x(p.M).toFixed(1)},${y(p[name]).toFixed(1)}`).join(" ");
  const text = (tx, ty, words, anchor) => `<text x="${tx}" y="${ty}" text-anchor="${anchor}">${words}</text>`;
  const ticks = points.filter((p, i) => i % 2 === 0 || points.length < 6).map((p) => text(x(p.M), high - 18, p.M, "middle"));
  const levels = [0, most / 2, most].map((b) => `<line class="txl-gridline" x1="${left}" x2="${wide - 10}" y1="${y(b)}" y2="${y(b)}"/>` +
    text(left - 4, y(b) + 4, b.toFixed(1), "end"));
  const dots = points.map((p) => `<circle cx="${x(p.M)}" cy="${y(p.mean)}" r="${p.M === M ? 5 : 3}" fill="currentColor"/>`);
  const says = points.map((p) => `M ${p.M}: ${p.mean.toFixed(2)} bits`).join(", ");
  return `<svg viewBox="0 0 ${wide} ${high}" role="img" aria-label="${says}">${levels.join("")}${ticks.join("")}` +
    text(wide - 10, high - 3, `memory M, ${world.unit}s`, "end") +
    `<polyline class="txl-mean" points="${path("mean")}"/><polyline class="txl-mean txl-dashed" points="${path("last")}"/>${dots.join("")}</svg>` +
    `<p class="txl-small">Line: bits a ${world.unit}, mean of this segment. Dashes: its last ${world.unit}.</p>`;
}

/** The last change in words. */
function changed({ T, M, wiped, previous }) {
  if (wiped && !previous.wiped) return "wiping the memory";
  if (M !== previous.M) return M < previous.M ? `a memory of ${M}` : `a longer memory, ${M},`;
  return T !== previous.T ? `segments of ${T}` : "the change";
}

/** The keys with most weight: where they stand, and the four terms of their scores. */
function strongestTable(world, state, look, colour, terms) {
  const best = [...look.weights.keys()].sort((x, y) => look.weights[y] - look.weights[x]).slice(0, 5);
  const columns = ["key", "back", "weight", ...(look.scores ? [..."abcd"] : [])];
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col", title: MEANING[name] }, name)));
  const sign = (t) => (t >= 0 && t < state.tokens.length ? world.shown[state.tokens[t]] : "");
  const lines = best.filter((key) => look.weights[key] > 0).map((key) => {
    const mark = make("span", { class: "txl-mark" }, sign(key));
    mark.style.borderBottom = `3px solid ${colour(state.starts[key])}`;
    const around = world.unit === "character"
      ? [[-4, -3, -2, -1].map((d) => sign(key + d)).join(""), mark, [1, 2, 3].map((d) => sign(key + d)).join("")]
      : [mark];
    const scores = look.scores
      ? [..."abcd"].map((t, i) => make("td", { class: terms[i] ? "" : "txl-off" },
          (Math.round(10 * look.scores[t][key - look.first]) / 10 || 0).toFixed(1).replace("-", "−")))
      : [];
    return make("tr", {}, make("td", { class: "txl-around" }, ...around), make("td", {}, `${look.at[0] - key}`),
      make("td", {}, percent(look.weights[key])), ...scores);
  });
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
}

// One query, three keys: every number can be dragged, and all that depends on it follows.
// small_attention.py has the same numbers from the library's functions.

/** All rows of the picture. */
function worked({ keys, values, query, doutput }) {
  const dot = (a, b) => a.reduce((sum, x, j) => sum + x * b[j], 0);
  const scores = keys.map((k) => query * k);
  const most = Math.max(...scores);
  const powers = scores.map((s) => Math.exp(s - most));
  const total = powers.reduce((a, b) => a + b, 0);
  const weights = powers.map((x) => x / total);
  const dweights = values.map((v) => doutput * v);
  const mean = dot(weights, dweights);
  const dscores = weights.map((p, j) => p * (dweights[j] - mean));
  const dkeys = dscores.map((ds) => ds * query);
  const dweight = values.map((v, j) => v * dkeys[j]); // a state is (key, value, query)
  return { keys, values, query, doutput, scores, weights, given: weights.map((p, j) => p * values[j]),
    output: dot(weights, values), dvalues: weights.map((p) => p * doutput), dweights, dscores, dkeys,
    dquery: dot(dscores, keys), dweight, dweight_all: dweight.reduce((a, b) => a + b, 0), dstates: dkeys };
}

const told = (x) => (Math.abs(x) < 5e-4 ? "0" : x.toFixed(3).replace("-", "−"));

/** The top of a row. */
const topOf = (world, row) => world.top + row * world.line + (row >= world.forward ? world.gap : 0);

/** The picture of a state, and the boxes of the numbers that can be changed. */
function attentionScene(world, state) {
  const { left, wide, line, one, rows, forward, colours, shades, limits } = world;
  const numbers = worked(state);
  const { n_mem: n, stopped } = state;
  const shapes = [];
  const open = []; // [name, index, box]
  const add = (kind, at, look) => shapes.push({ kind, at, ...look });
  const write = (x, y, words, look = {}) => shapes.push({ kind: "text", x, y, words, size: 14,
    anchor: "start", fill: colours.ink, ...look });
  const number = (x, y, value, fill, name, index) => {
    write(x, y, told(value), { anchor: "middle", size: 14.5, fill });
    if (!(name in limits)) return;
    add("lines", [[x - 26, y + 10, x + 26, y + 10]], { stroke: colours.ink, width: 1.5, dash: [2, 2] });
    open.push([name, index, [x - 60, y - line / 2 + 1, 120, line - 2]]);
  };
  for (const [title, row, fill] of [["forward", 0, colours.blue], ["backward", forward, colours.orange]]) {
    write(16, topOf(world, row) - 10, title, { size: 13, bold: true, fill });
  }
  for (let j = 0; j < 3; j++) {
    const name = j < n ? `cached ${j + 1}` : `segment ${j - n + 1}`;
    write(left + (j + 0.5) * wide, world.top - 10, name,
      { size: 13, anchor: "middle", bold: true, fill: j < n ? colours.blue : colours.orange });
  }
  rows.forEach(([name, words, cells, beside, label], row) => {
    const y = topOf(world, row);
    const middle = y + line / 2;
    write(28, middle, name, { size: 15, bold: true });
    write(100, middle, words, { size: 13.5, fill: colours.muted });
    const part = row < forward ? rows.slice(0, forward) : rows.slice(forward);
    const looks = row < forward ? shades.blue : shades.orange;
    const most = Math.max(...part.flatMap((r) => numbers[r[2]].map(Math.abs))) || 1;
    numbers[cells].forEach((value, j) => {
      const box = [left + j * wide, y + 1, wide, line - 2];
      const edge = { stroke: colours.muted, width: 0.7 };
      if (cells === "dstates" && stopped && j < n) {
        add("boxes", [box], { fill: colours.hidden, hatch: true, ...edge });
        write(box[0] + wide / 2, middle, "0", { anchor: "middle", halo: true });
        return;
      }
      const [fill, ink] = looks[Math.round(Math.sqrt(Math.min(Math.abs(value) / most, 1)) * (looks.length - 1))];
      add("boxes", [box], { fill, ...edge });
      number(box[0] + wide / 2, middle, value, ink, cells, j);
    });
    if (beside) {
      write(one, middle, label, { size: 13.5, bold: beside === "output" });
      number(one + 150, middle, numbers[beside], colours.ink, beside, null);
    }
  });
  if (n) {
    const edge = left + n * wide;
    add("lines", [[edge, world.top - 22, edge, topOf(world, rows.length)]], { stroke: colours.ink, width: 3.2 });
  }
  const largest = numbers.weights.indexOf(Math.max(...numbers.weights));
  let title = `The output is ${told(numbers.output)}; `;
  if (!n) title += `key ${largest + 1} has most of the weight`;
  else {
    const part = numbers.dweight.slice(0, n).reduce((a, b) => a + b, 0);
    const whole = told(numbers.dweight_all);
    title += `the memory gives ${told(part)} of the ${whole} in dWₖ's 2nd entry`;
  }
  const notes = ["Dotted numbers can be changed: drag them sideways, or press the arrow keys. Thick line: the memory's edge."];
  if (stopped && n) notes.push("Hatched: the gradient is stopped there; all above goes on as if there were no edge.");
  write(16, 24, title, { size: 18, bold: true });
  notes.forEach((note, i) => write(16, world.height - 17 - 19 * (notes.length - 1 - i), note));
  return { width: world.width, height: world.height, shapes, looks: colours, open,
    caption: `${title}. ${notes.join(" ")}` };
}

function render({ model, el }) {
  const world = model.get("data");
  const fresh = () => JSON.parse(JSON.stringify(world.start));
  const state = fresh();
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const button = (words, act) => {
    const made = make("button", { type: "button" }, words);
    made.addEventListener("click", () => {
      act();
      draw();
    });
    return made;
  };
  const ways = [true, false].map((stopped) =>
    button(stopped ? "stopped at the memory" : "let through", () => Object.assign(state, { stopped })));
  const sizes = [0, 1, 2].map((n) => button(`${n}`, () => Object.assign(state, { n_mem: n })));
  const picture = make("div", {});
  const handles = node("svg", { viewBox: `0 0 ${world.width} ${world.height}`, width: world.width });
  Object.assign(handles.style, { position: "absolute", inset: "0", background: "none" });
  const field = make("div", { class: "txl-field", style: "position: relative" }, picture, handles);
  const spoken = make("p", { class: "txl-said", role: "status" });
  el.classList.add("txl-drawing", "txl-play");
  el.replaceChildren(
    make("div", { class: "txl-tools" },
      make("span", { class: "txl-choice", role: "group", "aria-label": "gradient" }, "gradient ", ...ways),
      make("span", { class: "txl-choice", role: "group", "aria-label": "keys in memory" }, "keys in memory ", ...sizes),
      button("↺ as in the text", () => Object.assign(state, fresh()))),
    field, spoken);

  const valueOf = (name, index) => (index === null ? state[name] : state[name][index]);
  function change(name, index, value) {
    const [low, high, step] = world.limits[name];
    const rounded = Math.min(high, Math.max(low, Math.round(value / step) * step));
    if (index === null) state[name] = rounded;
    else state[name][index] = rounded;
    draw();
  }

  /** A number under the pointer or the focus: dragged, or moved by arrow keys. */
  function handle([name, index, [x, y, width, height]]) {
    const [low, high, step] = world.limits[name];
    const label = { keys: "key", values: "value", query: "query", doutput: "upstream do" }[name];
    const rect = node("rect", { x, y, width, height, rx: 4, fill: "transparent", role: "slider", tabindex: 0,
      "aria-label": index === null ? label : `${label} ${index + 1}`, "aria-valuemin": low, "aria-valuemax": high,
      "data-lm-suppress-shortcuts": "" });
    rect.style.cursor = "ew-resize";
    let from = null;
    rect.addEventListener("pointerdown", (event) => {
      from = [event.clientX, valueOf(name, index)];
      rect.setPointerCapture(event.pointerId);
      rect.focus();
      event.preventDefault();
    });
    rect.addEventListener("pointermove", (event) => {
      if (from) change(name, index, from[1] + Math.round((event.clientX - from[0]) / 5) * step);
    });
    for (const kind of ["pointerup", "pointercancel"]) rect.addEventListener(kind, () => (from = null));
    rect.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (by === undefined) return;
      change(name, index, valueOf(name, index) + by * step);
      event.preventDefault();
    });
    return { rect, name, index };
  }

  let made = [];
  let saying = 0;
  function draw() {
    const scene = attentionScene(world, state);
    picture.replaceChildren(drawn(scene));
    if (!made.length) {
      made = scene.open.map(handle);
      handles.append(...made.map(({ rect }) => rect));
    }
    for (const { rect, name, index } of made) {
      rect.setAttribute("aria-valuenow", valueOf(name, index));
      rect.setAttribute("aria-valuetext", told(valueOf(name, index)));
    }
    ways.forEach((b, i) => b.setAttribute("aria-pressed", state.stopped === (i === 0)));
    sizes.forEach((b, n) => b.setAttribute("aria-pressed", state.n_mem === n));
    clearTimeout(saying);
    saying = setTimeout(() => (spoken.textContent = scene.caption), 400);
  }
  draw();
  return () => clearTimeout(saying);
}

export default { render };

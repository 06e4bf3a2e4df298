// The token explorer's page: for JupyterLab (anywidget calls `render`) and for a file of its own
// (which calls `mount`). It loads nothing. It stands on numbers.js, plot.js and elements.js.

/** Draw the explorer into `el`; returns a function that ends it. */
export async function mount(el, data) {
  const model = await unpack(data);
  const { n, tgt_len: length } = model;
  const state = { ...model.start, memory: model.memories.at(-1), terms: "abcd", pinned: false };
  const hue = (age) => segmentColour(model, age);
  const shades = new Map(); // fill and text by age and depth in 1/64

  const title = make("p", { class: "txl-title" });
  const sentence = make("p", { class: "txl-sentence" });
  const note = make("p", { class: "txl-note" });
  const spoken = make("p", { class: "txl-spoken", role: "status", "aria-live": "polite" });

  const { grid, links, cells, rows } = passageOf(model);
  const { controls, slider, sliderText, boxes, reset } = controlsOf(model);
  const { table, buttons } = headsOf(model);
  const plot = make("div", { class: "txl-plot" });
  const strongest = make("div", { class: "txl-strongest" });
  const panel = (name, ...inside) =>
    make("section", { class: "txl-panel" }, make("h3", {}, name), ...inside);
  el.classList.add("txl");
  el.replaceChildren(
    make(
      "p",
      { class: "txl-hint" },
      make("b", {}, `Point at a ${model.unit} to see what it attends to.`),
      " Click to keep it; choose another head below.",
      make(
        "span",
        { class: "txl-keys" },
        " Keys: Tab to the text, arrows; Enter keeps, Escape lets go.",
      ),
    ),
    controls,
    note,
    title,
    grid,
    legend(model),
    sentence,
    make(
      "div",
      { class: "txl-panels" },
      panel(
        "Layer and head: click to choose",
        table,
        make("p", { class: "txl-small" }, "Number: % of the weight that falls on the memory."),
      ),
      panel(`Weight by distance (${model.unit}s back)`, plot),
      panel("Strongest keys", strongest),
    ),
    spoken,
  );

  // --- drawing -----------------------------------------------------------------------------------

  let means = { key: "" },
    places = [];
  let speaking = 0;
  let frame = 0;

  function measure() {
    const { left, top } = grid.getBoundingClientRect();
    places = cells.map((cell) => {
      const box = cell.getBoundingClientRect();
      return { x: box.left - left + box.width / 2, top: box.top - top, bottom: box.bottom - top };
    });
    change({});
  }

  /** A curve from the token that attends to every key with 2 % of its weight or more. */
  function drawLinks(weights, mine) {
    const { x, top } = places[state.query];
    let paths = "";
    for (let key = 0; key < state.query; key++) {
      if (weights[key] < 0.02) continue;
      const to = places[key];
      const same = to.top === top;
      const half = (top + to.bottom) / 2;
      const curve = same
        ? `Q${(x + to.x) / 2},${top - 16} ${to.x},${top}`
        : `C${x},${half} ${to.x},${half} ${to.x},${to.bottom}`;
      const colour = hue(mine - Math.floor(key / length));
      paths += `<path d="M${x},${top} ${curve}" style="stroke: ${colour}; stroke-width: ${1 + 4 * weights[key]}"/>`;
    }
    links.innerHTML = paths;
  }

  function meanLine() {
    const { layer, head, memory, terms, query } = state;
    const key = [layer, head, memory, terms, segmentStart(model, query)].join();
    if (means.key !== key) means = { key, values: meanByDistance(model, state) };
    return means.values;
  }

  function draw() {
    frame = 0;
    const { query, layer, head, memory, terms, pinned } = state;
    const weights = attend(model, state);
    const first = firstKey(model, query, memory);
    const mine = Math.floor(query / length);
    for (let at = 0; at < n; at++) {
      const cell = cells[at];
      const seen = at >= first && at <= query;
      const age = mine - Math.floor(at / length);
      const depth = seen ? Math.round(64 * strength(weights[at])) : -1;
      const look = `${age},${depth}`;
      if (cell.look !== look) {
        cell.look = look;
        cell.classList.toggle("txl-unseen", !seen);
        if (seen && !shades.has(look)) shades.set(look, segmentLook(model, age, depth / 64));
        paint(cell, seen ? shades.get(look) : ["", ""]);
      }
      const me = at === query;
      if (cell.me !== me) {
        cell.me = me;
        cell.classList.toggle("txl-me", me);
        cell.tabIndex = me ? 0 : -1;
        cell.setAttribute("aria-selected", me);
      }
    }
    rows.forEach((row, s) => drawRow(row, s, mine, first, weights));
    if (places.length) drawLinks(weights, mine);
    drawHeads();
    const found = spans(model, query, weights);
    const where = `layer ${layer}, ${head ? `head ${head}` : `mean of ${model.n_head} heads`}`;
    const shown = `position ${query % length} of segment ${mine + 1}`;
    title.replaceChildren(
      `What ${model.spoken[query]} attends to`,
      make("small", {}, ` ${shown}; ${where}${pinned ? "; kept (Escape lets go)" : ""}`),
    );
    const edge =
      segmentStart(model, query) === first
        ? "there is nothing in memory"
        : `${percent(found.memory)} of the weight crosses the memory's edge`;
    const words =
      `${edge}; 90 % lies within ${plural(found.span, model.unit)}, ` +
      `the mean distance is ${found.expected.toFixed(1)}.`;
    sentence.replaceChildren(make("b", {}, "Effective span: "), words);
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      spoken.textContent = `${model.spoken[query]}, ${shown}, ${where}: ${words}`;
    }, 250);
    drawNote();
    plot.innerHTML = distancePlot(model, state, weights, meanLine(), found);
    drawStrongest(weights, mine);
    slider.value = model.memories.indexOf(memory);
    const text = memory ? plural(memory, model.unit) : "none";
    sliderText.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    for (const box of boxes) box.checked = terms.includes(box.value);
  }

  function drawRow(row, s, mine, first, weights) {
    const age = mine - s;
    const start = s * length;
    const here = weights.subarray(start, start + length);
    const share = here.reduce((sum, w) => sum + w, 0);
    const lost = start + length <= first;
    const future = age < 0;
    row.whole.style.setProperty("--hue", future || lost ? "var(--muted)" : hue(age));
    row.name.textContent = future ? "not yet read" : lost ? "not in memory" : segmentName(age);
    row.bar.style.setProperty("--share", share);
    row.share.textContent = future || lost ? "" : percent(share);
    const far = age > 0 && first > 0 && start === first;
    row.edge.className = `txl-edge${age === 0 ? " txl-now" : far ? " txl-far" : ""}`;
    const edge = s ? "memory's edge" : "the text begins: no memory yet";
    row.edge.firstChild.textContent = age === 0 ? edge : far ? "memory's far end" : "";
  }

  function drawHeads() {
    for (const button of buttons) {
      const layer = Number(button.dataset.layer);
      const head = Number(button.dataset.head);
      const weights = attend(model, { ...state, layer, head });
      const { memory } = spans(model, state.query, weights);
      const chosen = layer === state.layer && head === state.head;
      button.textContent = Math.round(100 * memory);
      const label = `layer ${layer}, ${head ? `head ${head}` : "mean of heads"}: ${percent(memory)} in memory`;
      button.setAttribute("aria-label", label);
      button.setAttribute("aria-selected", chosen);
      button.tabIndex = chosen ? 0 : -1;
      paint(button, greyLook(model, Math.max(memory, 0.001)));
    }
  }

  function drawNote() {
    const whole = model.memories.at(-1),
      all = plural(whole, model.unit);
    const first = (memory) => firstKey(model, state.query, memory);
    const changed = state.terms !== "abcd" || first(state.memory) !== first(whole);
    note.classList.toggle("txl-changed", changed);
    note.textContent = changed
      ? `≠ Not what the model did: this layer's weights are computed anew with ` +
        `${state.terms ? `the terms ${[...state.terms].join(" + ")}` : "no term, so that all keys weigh alike"} ` +
        `and a memory of ${state.memory}. What the layer reads stays as it was with all terms and a memory of ${all}.`
      : `= As the model computed it: all four terms, and a memory of ${all}.`;
    reset.disabled = state.terms === "abcd" && state.memory === whole;
  }

  const characters = model.unit === "character";
  const textOf = (from, to) => model.shown.slice(Math.max(0, from), to).join("");

  function drawStrongest(weights, mine) {
    const best = [...weights.keys()].sort((x, y) => weights[y] - weights[x]).slice(0, 6);
    const head = make(
      "tr",
      {},
      ...["key", "from", "distance", "weight", ...(state.head ? [..."abcd"] : [])].map((name) =>
        make("th", { scope: "col", ...(MEANING[name] && { title: MEANING[name] }) }, name),
      ),
    );
    const lines = best
      .filter((key) => weights[key] > 0)
      .map((key) => {
        const age = mine - Math.floor(key / length);
        const mark = make("span", { class: "txl-mark" }, model.shown[key]);
        paint(mark, segmentLook(model, age, 1));
        const around = [textOf(key - 5, key), mark, textOf(key + 1, key + 4)];
        const terms = state.head
          ? scoreTerms(model, state.layer, state.head - 1, state.query, key)
          : [];
        return make(
          "tr",
          {},
          make("td", { class: "txl-around" }, ...(characters ? around : [mark])),
          make("td", {}, age ? segmentName(age) : "here"),
          make("td", {}, `${state.query - key}`),
          make("td", {}, percent(weights[key])),
          ...terms.map((x, t) =>
            make(
              "td",
              state.terms.includes("abcd"[t]) ? {} : { class: "txl-off" },
              (Math.round(10 * x) / 10 || 0).toFixed(1).replace("-", "−"),
            ),
          ),
        );
      });
    strongest.replaceChildren(
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)),
      make(
        "p",
        { class: "txl-small" },
        state.head
          ? "a to d: the terms of the score, before the softmax. Only differences between keys count."
          : "Choose one head to see the terms of its scores.",
      ),
    );
  }

  // --- pointing, keys ----------------------------------------------------------------------------

  function change(values) {
    Object.assign(state, values);
    if (!frame) frame = requestAnimationFrame(draw);
  }

  function move(list, from, step) {
    const to = Math.min(list.length - 1, Math.max(0, from + step));
    list[to].focus();
    return to;
  }

  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -length, ArrowDown: length };
  // JupyterLab has shortcuts on the arrow keys, and takes them before anything in the page can.
  for (const part of [grid, table, slider]) part.setAttribute("data-lm-suppress-shortcuts", "");
  grid.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".txl-cell");
    if (cell && !state.pinned) change({ query: Number(cell.dataset.at) });
  });
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest(".txl-cell");
    if (!cell) return;
    const query = Number(cell.dataset.at);
    cell.focus();
    change({ query, pinned: !(state.pinned && query === state.query) });
  });
  grid.addEventListener("keydown", (event) => {
    const { query } = state;
    const start = segmentStart(model, query);
    const step =
      event.key === "Home"
        ? start - query
        : event.key === "End"
          ? start + length - 1 - query
          : steps[event.key];
    if (step !== undefined) {
      const inside = query + step >= 0 && query + step < n;
      change({ query: move(cells, query, inside ? step : 0), pinned: true });
    } else if (event.key === "Enter" || event.key === " ") change({ pinned: !state.pinned });
    else if (event.key === "Escape") change({ pinned: false });
    else return;
    event.preventDefault();
  });
  const choose = (button) =>
    change({ layer: Number(button.dataset.layer), head: Number(button.dataset.head) });
  table.addEventListener("click", (event) => {
    const button = event.target.closest(".txl-head");
    if (button) choose(button);
  });
  table.addEventListener("keydown", (event) => {
    const wide = model.n_head + 1;
    const at = buttons.indexOf(event.target);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
    if (step === undefined || at < 0) return;
    if (at + step >= 0 && at + step < buttons.length) choose(buttons[move(buttons, at, step)]);
    event.preventDefault();
  });
  slider.addEventListener("input", () => change({ memory: model.memories[slider.value] }));
  for (const box of boxes) {
    box.addEventListener("change", () =>
      change({
        terms: boxes
          .filter((b) => b.checked)
          .map((b) => b.value)
          .join(""),
      }),
    );
  }
  reset.addEventListener("click", () => change({ memory: model.memories.at(-1), terms: "abcd" }));
  draw();
  const watcher = new ResizeObserver(measure); // also where a hidden cell is shown
  watcher.observe(grid);
  return () => {
    watcher.disconnect();
    clearTimeout(speaking);
    cancelAnimationFrame(frame);
  };
}

/** anywidget's entry. */
function render({ model, el }) {
  return mount(el, model.get("data"));
}

export default { render };

// The explorer's elements, before anything is drawn. One cell of a grid at a time takes the Tab key;
// arrows move inside.

const MEANING = {
  a: "query and key: what is sought, what is there",
  b: "query and distance: what is sought, how far back",
  c: "key alone: what is there, whoever asks",
  d: "distance alone: how far back, whoever asks",
};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The text: a grid with one row per segment, and a picture behind it for the links. */
function passageOf(model) {
  const { n, tgt_len: length } = model;
  const segments = n / length;
  const cells = model.shown.map((symbol, at) =>
    make(
      "span",
      {
        class: "txl-cell",
        role: "gridcell",
        tabindex: "-1",
        "data-at": at,
        "aria-label": `${model.spoken[at]}, position ${at % length} of segment ${Math.floor(at / length) + 1}`,
      },
      symbol,
    ),
  );
  const rows = Array.from({ length: segments }, (_, s) => {
    const name = make("span", { class: "txl-name" });
    const bar = make("span", { class: "txl-bar" });
    const share = make("span", { class: "txl-share" });
    const edge = make("div", { class: "txl-edge", role: "presentation" }, make("span"));
    const line = make(
      "div",
      { class: "txl-line", role: "presentation" },
      ...cells.slice(s * length, (s + 1) * length),
    );
    const row = make("div", { class: "txl-row", role: "row" }, line);
    return {
      name,
      bar,
      share,
      edge,
      row,
      whole: make(
        "div",
        { class: "txl-segment", role: "presentation" },
        edge,
        name,
        row,
        make("span", { class: "txl-shares" }, bar, share),
      ),
    };
  });
  const grid = make(
    "div",
    {
      class: "txl-grid",
      role: "grid",
      "aria-label": `The text, ${segments} segments of ${plural(length, model.unit)}. Arrow keys choose the one that attends.`,
    },
    ...rows.map((row) => row.whole),
  );
  const unit = model.unit === "character" ? "txl-characters" : "txl-words";
  grid.classList.add(unit);
  const links = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  links.setAttribute("class", "txl-links");
  links.setAttribute("aria-hidden", "true");
  grid.prepend(links);
  grid.style.setProperty("--columns", length);
  return { grid, links, cells, rows };
}

/** Memory and terms. */
function controlsOf(model) {
  const slider = make("input", {
    type: "range",
    min: 0,
    max: model.memories.length - 1,
    "aria-label": "memory",
  });
  const sliderText = make("output", { class: "txl-value" });
  const boxes = [..."abcd"].map((term) => make("input", { type: "checkbox", value: term }));
  const reset = make("button", { type: "button", class: "txl-reset" }, "back to the model");
  const controls = make(
    "div",
    { class: "txl-controls" },
    make("label", {}, "memory ", slider, sliderText),
    make(
      "fieldset",
      { class: "txl-terms" },
      make("legend", { class: "txl-spoken" }, "terms of the score"),
      "terms ",
      ...boxes.map((box) =>
        make(
          "label",
          { title: MEANING[box.value] },
          box,
          make("b", {}, box.value),
          make("small", {}, ` ${MEANING[box.value].split(":")[0]}`),
        ),
      ),
    ),
    reset,
  );
  return { controls, slider, sliderText, boxes, reset };
}

/** Every layer and head, as cells that choose it and that show a share. */
function headsOf(model) {
  const layerCount = model.layers.length;
  const buttons = [];
  const table = make("div", { class: "txl-heads", role: "grid", "aria-label": "layer and head" });
  table.style.setProperty("--heads", model.n_head + 1);
  table.append(
    make(
      "div",
      { class: "txl-headrow", role: "row" },
      make("span", { role: "columnheader" }, "head"),
      ...Array.from({ length: model.n_head + 1 }, (_, h) =>
        make("span", { role: "columnheader" }, h ? `${h}` : "mean"),
      ),
    ),
  );
  for (let layer = 1; layer <= layerCount; layer++) {
    const line = make(
      "div",
      { class: "txl-headrow", role: "row" },
      make("span", { role: "rowheader" }, `layer ${layer}`),
    );
    for (let head = 0; head <= model.n_head; head++) {
      const button = make("span", {
        class: "txl-head",
        role: "gridcell",
        tabindex: "-1",
        "data-layer": layer,
        "data-head": head,
      });
      buttons.push(button);
      line.append(button);
    }
    table.append(line);
  }
  return { table, buttons };
}

/** What depth of colour means. */
function legend(model) {
  const steps = [0.005, 0.02, 0.1, 0.5].map((weight) => {
    const step = make("span", {}, percent(weight));
    paint(step, greyLook(model, strength(weight)));
    return step;
  });
  return make("div", { class: "txl-legend" }, "depth of colour = weight ", ...steps);
}

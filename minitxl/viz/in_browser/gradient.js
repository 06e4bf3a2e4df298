// The gradient in the text: every box takes the colour of |d loss / d h_n| of its state. A pulse runs
// forward through the segment, then back; where the memory's edge stops it the numbers are exactly 0.

const SCALES = [ // one hue and its reverse: on a light and on a dark page large numbers stand out
  [[221, 230, 238], [91, 141, 187], [0, 32, 77]],
  [[38, 56, 86], [91, 141, 187], [233, 241, 248]],
];

/** The segments since the last wipe, the one that is read last: [[from, to], ...]. */
function segmentsRead({ starts, tokens, changes }) {
  const since = Math.max(0, ...changes.filter((c) => c.wiped).map((c) => c.at)); // what is still known
  const found = [];
  for (let t = 0; t < tokens.length; t++) {
    if (starts[t] < since) continue;
    if (found.at(-1)?.[0] !== starts[t]) found.push([starts[t], t + 1]);
    else found.at(-1)[1] = t + 1;
  }
  return found;
}

/** Is this what the stored numbers were computed for? */
function sameSegments(stored, { tokens, setting }, segments) {
  const mine = segments.flatMap(([from, to]) => tokens.slice(from, to));
  return setting.M === stored.M && String(segments) === String(stored.segments) && String(mine) === String(stored.tokens);
}

function scaleColour(share) {
  const at = Math.min(0.999, Math.max(0, share)) * 2;
  return bothThemes(SCALES.map((scale) => {
    const [low, high] = [scale[Math.floor(at)], scale[Math.floor(at) + 1]];
    return `rgb(${low.map((c, i) => Math.round(c + (high[i] - c) * (at % 1)))})`;
  }));
}

/** The colours of one token's boxes, lowest layer at the bottom; null where all is exactly 0. */
function boxColours(column, [least, most]) {
  if (column.every((x) => x === 0)) return null;
  const share = (x) => Math.log(Math.max(x, least) / least) / Math.log(most / least);
  const step = 100 / column.length;
  const stops = column.map((x, n) => {
    const colour = x === 0 ? "transparent" : scaleColour(share(x));
    return `${colour} ${n * step}% ${(n + 1) * step - 4}%, transparent ${(n + 1) * step - 4}% ${(n + 1) * step}%`;
  });
  return `linear-gradient(to top, ${stops.join(", ")})`;
}

/** Show `found` in the boxes of a TextView: the pulse forward, then back. */
function showPulse(view, state, { segments, limits }, found) {
  view.paint(state, null);
  const [from, to] = [segments[0][0], segments.at(-1)[1]];
  const edge = segments.at(-1)[0];
  rowWords(view, { segments }, found);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (let t = from; t < to; t++) {
    const boxes = view.cells[t].boxes;
    const colours = boxColours(found.norms.map((row) => row[t - from]), limits);
    boxes.classList.toggle("txl-zero", colours === null);
    boxes.style.background = colours ?? "";
    view.cells[t].sign.style.background = "";
    if (still) continue;
    const forward = (t - from) * 2;
    const turn = (to - from) * 2 + 150;
    boxes.animate([{ filter: "brightness(1)" }, { filter: "brightness(1.7)" }, { filter: "brightness(1)" }],
      { duration: 160, delay: forward });
    if (colours !== null) {
      boxes.animate([{ opacity: 0.08 }, { opacity: 1 }],
        { duration: 220, delay: turn + (to - t) * (t < edge ? 3 : 5), fill: "backwards" });
    }
  }
}

/** What the rows say of it. */
function rowWords(view, { segments }, found) {
  const first = segments[0][0];
  for (const { row, share } of view.rows.values()) {
    const [from, to] = [row.parts[0].from, Math.min(row.parts.at(-1).to, segments.at(-1)[1])];
    const numbers = found.norms.flatMap((layer) => layer.slice(from - first, to - first));
    const zeros = numbers.filter((x) => x === 0).length;
    const words = zeros === numbers.length ? "exactly 0" : `${numbers.length - zeros} not 0`;
    share.textContent = numbers.length ? words : "";
  }
}

function endPulse(view) {
  for (const cell of view.cells) {
    cell?.boxes.classList.remove("txl-zero");
    if (cell) cell.boxes.style.background = "";
  }
}

// Attention from packed queries and keys; no page is needed for this. Python puts this file in front
// of explorer.js, and both are one module.
//   score_ij = q_i.k_j + q_i.r_(i-j) + c_j + d_(i-j)     the terms a, b, c, d, divided by sqrt(Dh)
// Positions 0 ... n-1 count from the start of the passage; `data` comes from data.py.

async function bytes(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let at = 0; at < packed.length; at++) packed[at] = letters.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function vectors(text, scales) {
  const whole = new Int16Array(await bytes(text));
  const perHead = whole.length / scales.length;
  const out = new Float32Array(whole.length); // loops: `from` with a function takes far longer
  for (let at = 0; at < out.length; at++) out[at] = whole[at] * scales[Math.floor(at / perHead)];
  return out;
}

/** Packed data -> layers of {q, k, r: (H, n, Dh), c, d: (H, n)} as Float32Array. */
export async function unpack(data) {
  const layers = await Promise.all(
    data.layers.map(async (layer) => ({
      q: await vectors(layer.q, layer.q_scale),
      k: await vectors(layer.k, layer.k_scale),
      r: await vectors(layer.r, layer.r_scale),
      c: new Float32Array(await bytes(layer.c)),
      d: new Float32Array(await bytes(layer.d)),
    })),
  );
  return { ...data, layers, n: data.shown.length };
}

/** The first key that a query sees with `memory` tokens cached before its segment. */
export function firstKey(model, query, memory) {
  const first = Math.max(0, segmentStart(model, query) - memory);
  if (model.extra_keys === null) return first;
  return Math.max(first, query + 1 - memory - model.extra_keys);
}

export function segmentStart(model, query) {
  return query - (query % model.tgt_len);
}

function dot(x, at, y, from, length) {
  let sum = 0;
  for (let e = 0; e < length; e++) sum += x[at + e] * y[from + e];
  return sum;
}

/** The four terms of one query on one key, for one head (0-based): [a, b, c, d]. */
export function scoreTerms(model, layer, head, query, key) {
  const { q, k, r, c, d } = model.layers[layer - 1];
  const width = model.d_head;
  const base = head * model.n;
  const distance = query - key;
  const me = (base + query) * width;
  return [
    dot(q, me, k, (base + key) * width, width),
    dot(q, me, r, (base + distance) * width, width),
    c[base + key],
    d[base + distance],
  ];
}

/** Attention of one query: weights of the keys 0 ... n-1 (Float64Array), 0 where none is seen.
 *  head 1 ... H, or 0 for the mean of all; terms: which of "abcd" make up the score. */
export function attend(model, { layer, head, query, memory, terms }) {
  const first = firstKey(model, query, memory);
  const mean = new Float64Array(model.n);
  const heads = head ? [head - 1] : Array.from({ length: model.n_head }, (_, h) => h);
  const [a, b, c, d] = [..."abcd"].map((term) => terms.includes(term));
  const width = model.d_head;
  const inputs = model.layers[layer - 1];
  const scores = new Float64Array(query + 1);
  for (const h of heads) {
    const base = h * model.n;
    const me = (base + query) * width;
    let top = -Infinity;
    let sum = 0;
    for (let key = first; key <= query; key++) {
      const far = base + query - key;
      scores[key] = 0;
      if (a) scores[key] += dot(inputs.q, me, inputs.k, (base + key) * width, width);
      if (b) scores[key] += dot(inputs.q, me, inputs.r, far * width, width);
      if (c) scores[key] += inputs.c[base + key];
      if (d) scores[key] += inputs.d[far];
      top = Math.max(top, scores[key]);
    }
    for (let key = first; key <= query; key++) sum += scores[key] = Math.exp(scores[key] - top);
    for (let key = first; key <= query; key++) mean[key] += scores[key] / sum / heads.length;
  }
  return mean;
}

/** Share in memory, expected distance, and the distance within which 90 % of the weight lies. */
export function spans(model, query, weights) {
  const start = segmentStart(model, query);
  let reached = 0;
  let span = null;
  let expected = 0;
  let memory = 0;
  for (let key = query; key >= 0; key--) {
    reached += weights[key];
    if (span === null && reached >= 0.9) span = query - key;
    expected += (query - key) * weights[key];
    if (key < start) memory += weights[key];
  }
  return { memory, expected, span };
}

/** Mean weight at distance 0, 1, ... over the queries of a segment that see so far back. */
export function meanByDistance(model, state) {
  const start = segmentStart(model, state.query);
  const total = new Float64Array(start + model.tgt_len);
  const seen = new Float64Array(total.length);
  for (let query = start; query < start + model.tgt_len; query++) {
    const weights = attend(model, { ...state, query });
    for (let key = firstKey(model, query, state.memory); key <= query; key++) {
      total[query - key] += weights[key];
      seen[query - key] += 1;
    }
  }
  return total.map((sum, distance) => (seen[distance] ? sum / seen[distance] : NaN));
}

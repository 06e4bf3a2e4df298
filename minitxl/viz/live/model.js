// The Transformer-XL in plain JavaScript: it reads one token after the other, as minitxl does.
// The only file to read: no page, no library and no other file is needed for it.
//
//   const model = new Model(run.config, readSafetensors(await file.arrayBuffer()));
//   const reader = new Reader(model, { T: 64, M: 256 });  // segments of T tokens, a memory of M
//   const logP = reader.push(token);                       // of the next token, in nats
//
// Shapes: D width of the states, H heads of Dh, F inside of the feed-forward block, V tokens, N
// layers. All matrices are kept as (out, in), so that each sum runs along one row. Positions t, j
// count from the first token that was read; d = t - j is a distance. Sections are the paper's.
//
// A key k = W_k h and a value depend on the state h of their token alone, and a state is computed
// once, in its own segment; so queries, keys and values of all tokens are kept, and
//   memory = [first, start)     the segment = [start, t]     attended to = [first, t]
// are only ranges of them (sec. 3.2: the cached states are fixed, here as in training).

/** Bytes of a safetensors file (ArrayBuffer) -> Map of name -> { shape, data: Float32Array }. */
export function readSafetensors(buffer) {
  const size = buffer.byteLength;
  const fail = (why) => { throw new Error(`this is no whole safetensors file: ${why}`); };
  const length = size < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  if (length > size - 8) fail(`cut short (${size} bytes long)`);
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(buffer, 8, length)));
  } catch {
    fail("its header cannot be read");
  }
  if (header === null || typeof header !== "object" || Array.isArray(header)) fail("its header cannot be read");
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: place } = entry ?? {};
    const label = `tensor ${JSON.stringify(name.slice(0, 80))}`;
    const whole = (list) => Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!whole(shape) || !whole(place) || place.length !== 2) fail(`the entry of ${label} is malformed`);
    const width = { F16: 2, F32: 4, F64: 8 }[dtype];
    if (!width) fail(`${label} is of type ${JSON.stringify(String(dtype).slice(0, 20))}, not F16, F32 or F64`);
    const [start, stop] = place.map((at) => 8 + length + at);
    const count = shape.reduce((product, n) => product * n, 1);
    if (stop > size || stop - start !== count * width) fail(`the place of ${label} does not fit its shape or the file`);
    const bytes = buffer.slice(start, stop); // a copy: the numbers need not be aligned in the file
    const data = { F16: () => fromFloat16(new Uint16Array(bytes)), F32: () => new Float32Array(bytes),
                   F64: () => Float32Array.from(new Float64Array(bytes)) }[dtype]();
    tensors.set(name, { shape, data });
  }
  return tensors;
}

function fromFloat16(bits) {
  return Float32Array.from(bits, (x) => {
    const sign = x >> 15 ? -1 : 1, exponent = (x >> 10) & 31, fraction = x & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
  });
}

// --- what can be read --------------------------------------------------------------------------

const DEFAULTS = { attn_type: 0, clamp_len: -1, same_length: false, untie_r: false, pre_lnorm: false,
  layer_norm_epsilon: 1e-5, ext_len: 0, max_klen: 0, d_embed: 0, cutoffs: [], div_val: 1, tie_weight: true,
  start_mems: "empty", same_length_extra: 0, raw_queries: false };

const filled = (config) => ({ ...DEFAULTS, ...config, ...config?.released });

/** "" or one sentence: why a model of this configuration (run.json's "config") cannot be read here. */
export function whyNot(config) {
  const c = filled(config);
  for (const name of ["n_token", "n_layer", "d_model", "n_head", "d_head", "d_inner", "tgt_len"]) {
    if (!Number.isSafeInteger(c[name]) || c[name] < 1) return `Its configuration has ${name}=${c[name]}, which must be a whole number from 1.`;
  }
  if (!Number.isSafeInteger(c.mem_len) || c.mem_len < 0) return `Its configuration has mem_len=${c.mem_len}, which must be a whole number from 0.`;
  if (c.attn_type !== 0 && c.attn_type !== 1) return `Its positions are absolute (attn_type=${c.attn_type}): they are added anew to the cached states in every segment, so no key can be kept.`;
  if (c.cutoffs.length || c.div_val !== 1) return "Its softmax is adaptive (cutoffs, div_val), which this page does not compute.";
  if (c.d_embed !== 0 && c.d_embed !== c.d_model) return `Its embedding is projected (d_embed=${c.d_embed}, d_model=${c.d_model}), which this page does not compute.`;
  if (c.ext_len !== 0) return `It reads ext_len=${c.ext_len} tokens of each segment twice, which this page does not.`;
  if (c.start_mems !== "empty") return "Its memory begins as rows of zeros (start_mems), where this page begins with an empty one.";
  if (c.same_length && c.mem_len + c.same_length_extra < 1) return "With same_length and mem_len=0 it sees no key, its own neither.";
  return "";
}

/** Weights, checked against their configuration; several readers can share a model. */
export class Model {
  constructor(config, tensors) {
    const why = whyNot(config);
    if (why) throw new Error(why);
    const c = (this.config = filled(config));
    const [D, F, V, H, Dh] = [c.d_model, c.d_inner, c.n_token, c.n_head, c.d_head];
    const take = (name, ...shape) => {
      const tensor = tensors.get(`params.${name}`);
      if (!tensor) throw new Error(`the weights lack params.${name}; they belong to another model`);
      if (String(tensor.shape) !== String(shape)) throw new Error(`params.${name} has shape (${tensor.shape}), the configuration says (${shape}); the weights belong to another model`);
      if (!tensor.data.every(Number.isFinite)) throw new Error(`params.${name} holds numbers that are not finite (NaN or infinite); the file was changed or its training diverged`);
      return tensor.data;
    };
    const matrix = (name, from, to) => transposed(take(name, from, to), from, to); // y = x w as in minitxl
    const of = c.tie_weight ? "" : ".0";
    this.embedding = take(`word_emb${of}`, V, D);
    this.softmax = c.tie_weight ? this.embedding : take("out_emb.0", V, D); // tied: the same matrix E
    this.softmaxBias = take(`out_bias${of}`, V);
    this.layers = Array.from({ length: c.n_layer }, (_, n) => {
      const p = `layers.${n}.`;
      const bias = (name) => take(c.untie_r || c.attn_type === 1 ? p + name : name, H, Dh);
      const w = {
        q: matrix(`${p}attn.w_q`, D, H * Dh), k: matrix(`${p}attn.w_k`, D, H * Dh), v: matrix(`${p}attn.w_v`, D, H * Dh),
        o: matrix(`${p}attn.w_o`, H * Dh, D), u: bias("r_w_bias"),
        attnGamma: take(`${p}attn_norm.gamma`, D), attnBeta: take(`${p}attn_norm.beta`, D),
        w1: matrix(`${p}ff.w_1`, D, F), b1: take(`${p}ff.b_1`, F), w2: matrix(`${p}ff.w_2`, F, D), b2: take(`${p}ff.b_2`, D),
        ffGamma: take(`${p}ff_norm.gamma`, D), ffBeta: take(`${p}ff_norm.beta`, D),
        r: new Rows(H * Dh), e: new Rows(H), // by distance; `positions` fills them
      };
      if (c.attn_type === 0) return { ...w, wr: matrix(`${p}attn.w_r`, D, H * Dh), vBias: bias("r_r_bias") };
      const L = c.max_klen || c.tgt_len + c.mem_len; // rows of the learned tables; the last is distance 0
      return { ...w, L, rTable: take(`${p}r_emb`, L, H, Dh), eTable: take(`${p}r_bias`, L, H) };
    });
    this.frequencies = tensors.get("constants.inv_freq")?.data
      ?? Float64Array.from({ length: D / 2 }, (_, k) => 10000 ** (-2 * k / D)); // sec. 3.3
  }

  /** See to it that r_d (H*Dh) and e_d (H) are known for all distances below n: a score has q.r_d + e_d. */
  positions(n) {
    const { d_model: D, n_head: H, d_head: Dh, clamp_len: clamp, attn_type } = this.config;
    for (let d = this.layers[0].r.length; d < n; d++) {
      const angle = attn_type === 0 && clamp > 0 ? Math.min(d, clamp) : d;
      const R = Float64Array.from({ length: D }, (_, k) => // R_d = [sin(d w) | cos(d w)], no parameters
        k < D / 2 ? Math.sin(angle * this.frequencies[k]) : Math.cos(angle * this.frequencies[k - D / 2]));
      for (const w of this.layers) {
        if (attn_type === 1) { // learned: distances beyond the table share its longest
          const row = w.L - 1 - Math.min(d, w.L - 1, clamp > 0 ? clamp - 1 : Infinity);
          w.r.set(d, w.rTable.subarray(row * H * Dh, (row + 1) * H * Dh));
          w.e.set(d, w.eTable.subarray(row * H, (row + 1) * H));
          continue;
        }
        const r = linear(new Float64Array(H * Dh), w.wr, R); // r_d = W_{k,R} R_d
        w.r.set(d, r);
        w.e.set(d, Float64Array.from({ length: H }, (_, h) => dot(w.vBias, h * Dh, r, h * Dh, Dh))); // v . r_d
      }
    }
  }
}

// --- operations --------------------------------------------------------------------------------

/** Rows of one width that grow in number: (length, width) numbers in `data`. */
class Rows {
  constructor(width, Type = Float32Array) {
    Object.assign(this, { width, length: 0, data: new Type(64 * width) });
  }
  set(row, values) {
    if ((row + 1) * this.width > this.data.length) {
      const old = this.data;
      this.data = new old.constructor(Math.max(2 * old.length, (row + 1) * this.width));
      this.data.set(old);
    }
    this.data.set(values, row * this.width);
    this.length = row + 1;
  }
  row(row) { return this.data.slice(row * this.width, (row + 1) * this.width); }
}

function transposed(x, rows, columns) {
  const y = new Float32Array(x.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) y[j * rows + i] = x[i * columns + j];
  return y;
}

function dot(x, at, y, from, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += x[at + i] * y[from + i];
  return sum;
}

/** y = W x + b, W (out, in). Four rows at a time: x is read once for four sums, half the time. */
function linear(y, W, x, b = null) {
  const n = x.length, m = y.length;
  let j = 0;
  for (; j + 3 < m; j += 4) {
    const at0 = j * n, at1 = at0 + n, at2 = at1 + n, at3 = at2 + n;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (let i = 0; i < n; i++) {
      const xi = x[i];
      s0 += W[at0 + i] * xi; s1 += W[at1 + i] * xi; s2 += W[at2 + i] * xi; s3 += W[at3 + i] * xi;
    }
    y[j] = s0; y[j + 1] = s1; y[j + 2] = s2; y[j + 3] = s3;
  }
  for (; j < m; j++) y[j] = dot(W, j * n, x, 0, n);
  if (b) for (j = 0; j < m; j++) y[j] += b[j];
  return y;
}

/** y = gamma x^ + beta, x^ = (x - mean) / sqrt(var + eps); y may be x. */
function layerNorm(y, x, gamma, beta, eps) {
  const n = x.length;
  let mean = 0, variance = 0;
  for (let i = 0; i < n; i++) mean += x[i] / n;
  for (let i = 0; i < n; i++) variance += (x[i] - mean) ** 2 / n;
  const rstd = 1 / Math.sqrt(variance + eps);
  for (let i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
}

/** x = exp(x) / sum exp(x) for the first n numbers, in place. */
function softmax(x, n) {
  let top = -Infinity, sum = 0;
  for (let i = 0; i < n; i++) if (x[i] > top) top = x[i];
  for (let i = 0; i < n; i++) sum += x[i] = Math.exp(x[i] - top);
  for (let i = 0; i < n; i++) x[i] /= sum;
}

// --- reading -----------------------------------------------------------------------------------

const ALL = [true, true, true, true]; // the terms a, b, c, d of a score

/** A text in reading: its tokens, and what every layer has kept of them. */
export class Reader {
  #marks = new Rows(4, Float64Array); // for each token [start, first, T, M] as they were when it was read
  #tokens = [];
  #logP;
  #kept; // for each layer q, k, v (length, H*Dh)
  #room; // working space, so that reading allocates nothing in its loops

  constructor(model, { T = model.config.tgt_len, M = model.config.mem_len } = {}) {
    const c = model.config, HD = c.n_head * c.d_head, made = (n) => new Float64Array(n);
    this.model = model;
    this.start = this.first = 0; // where the current segment and its memory begin
    this.#logP = new Rows(c.n_token);
    this.#kept = model.layers.map(() => ({ q: new Rows(HD), k: new Rows(HD), v: new Rows(HD) }));
    this.#room = { h: made(c.d_model), x: made(c.d_model), y: made(c.d_model), f: made(c.d_inner), q: made(HD),
      o: made(HD), qk: made(c.d_head), qr: made(c.d_head), p: made(256), z: made(c.n_token) };
    this.setLengths(T, M);
  }

  /** How many tokens were read. */
  get length() { return this.#tokens.length; }

  /** Read a token; return log p of the next one, (V,). A full segment ends at once (sec. 3.2). */
  push(token) {
    const t = this.length, V = this.model.config.n_token;
    if (!Number.isInteger(token) || token < 0 || token >= V) throw new Error(`token ${token} is none of the model's 0 ... ${V - 1}`);
    this.#marks.set(t, [this.start, this.first, this.T, this.M]);
    this.#tokens.push(token);
    this.#logP.set(t, this.#forward(t, ALL));
    if (this.length - this.start >= this.T) this.endSegment();
    return this.logProbs(t);
  }

  /** log p of the token after t, (V,), in nats. */
  logProbs(t) { return this.#logP.row(this.#known(t)); }

  /** Nats of token t, given what was before; NaN for the first, which nothing predicts. */
  nll(t) {
    return this.#known(t) === 0 ? NaN : -this.#logP.data[(t - 1) * this.model.config.n_token + this.#tokens[t]];
  }

  // --- the memory --------------------------------------------------------------------------------

  /** The segment ends: the last M of [memory ; segment] are the memory from here on (sec. 3.2). */
  endSegment() {
    this.first = Math.max(this.first, this.length - this.M);
    this.start = this.length;
  }

  /** The memory is emptied: tokens from here on see only the current segment's. */
  wipe() { this.first = this.start; }

  /** From here on segments of T tokens and a memory of M; a longer one fills, a shorter is cut now. */
  setLengths(T, M) {
    const { same_length, same_length_extra: extra } = this.model.config;
    if (!Number.isSafeInteger(T) || T < 1) throw new Error(`T=${T} must be a whole number from 1`);
    if (!Number.isSafeInteger(M) || M < 0) throw new Error(`M=${M} must be a whole number from 0`);
    if (same_length && M + extra < 1) throw new Error("with same_length and M=0 a token sees no key, its own neither");
    [this.T, this.M] = [T, M];
    this.first = Math.max(this.first, this.start - M);
    if (this.length - this.start >= T) this.endSegment();
  }

  /** Forget the tokens n, n+1, ...: all is as it was when token n was about to be read. */
  truncate(n) {
    if (!Number.isInteger(n) || n < 0) throw new Error(`truncate(${n}): it must be a whole number from 0`);
    if (n >= this.length) return;
    [this.start, this.first, this.T, this.M] = this.#marks.row(n);
    this.#tokens.length = n;
  }

  /** Where the segment of token t begins. */
  segmentStart(t) { return this.#marks.data[4 * this.#known(t)]; }

  /** The oldest token that token t attends to; same_length shows M tokens, itself included. */
  firstKey(t) {
    const at = 4 * this.#known(t), first = this.#marks.data[at + 1];
    const { same_length, same_length_extra: extra } = this.model.config;
    return same_length ? Math.max(first, t + 1 - this.#marks.data[at + 3] - extra) : first;
  }

  // --- what it looked at -------------------------------------------------------------------------

  /** Weights of token t on the keys firstKey(t) ... t. head -1: mean of the heads; layer -1: of all. */
  attention(t, layer, head) {
    return this.#meanWeights(this.#known(t), layer, head, ALL, (n) => this.#kept[n].q.row(t));
  }

  /** The terms {a, b, c, d} of its scores (sec. 3.3), each divided by sqrt(Dh), by key. */
  scores(t, layer, head) {
    const q = this.#kept[layer].q.row(this.#known(t));
    const only = (term) => Float32Array.from(
      this.#scores(layer, head, t, q, 0, ALL.map((_, i) => i === term)).subarray(0, t + 1 - this.firstKey(t)));
    return { a: only(0), b: only(1), c: only(2), d: only(3) };
  }

  /** Read token t once more without some terms, in all layers, on keys and values as they are kept. */
  recompute(t, { terms = ALL } = {}) {
    const queries = [];
    const logProbs = Float32Array.from(this.#forward(this.#known(t), terms, queries));
    return { logProbs, attention: (layer, head) => this.#meanWeights(t, layer, head, terms, (n) => queries[n]) };
  }

  #known(t) {
    if (!Number.isInteger(t) || t < 0 || t >= this.length) throw new Error(`token ${t} was not read; ${this.length} were`);
    return t;
  }

  #meanWeights(t, layer, head, terms, queryOf) {
    const { n_layer: N, n_head: H } = this.model.config;
    const all = (one, n, name) => {
      if (!Number.isInteger(one) || one < -1 || one >= n) throw new Error(`${name}=${one} must be -1 (all) ... ${n - 1}`);
      return one < 0 ? [...Array(n).keys()] : [one];
    };
    const layers = all(layer, N, "layer"), heads = all(head, H, "head");
    const mean = new Float64Array(t + 1 - this.firstKey(t));
    for (const n of layers) {
      const q = queryOf(n);
      for (const h of heads) {
        const p = this.#scores(n, h, t, q, 0, terms);
        softmax(p, mean.length);
        for (let i = 0; i < mean.length; i++) mean[i] += p[i] / layers.length / heads.length;
      }
    }
    return Float32Array.from(mean);
  }

  // --- the model, sec. 3.3 -----------------------------------------------------------------------

  /** Scores of query q[at ...] of token t on its keys, for one head: (a + b + c + d) / sqrt(Dh).
   *    a  q.k_j    b  q.r_d    c  u.k_j    d  v.r_d = e_d        (a + c = (q + u).k, as in attention.py) */
  #scores(n, head, t, q, at, [a, b, c, d]) {
    const { n_head: H, d_head: Dh } = this.model.config, w = this.model.layers[n], { qk, qr } = this.#room;
    const first = this.firstKey(t), HD = H * Dh, from = head * Dh, scale = 1 / Math.sqrt(Dh);
    this.model.positions(t + 1 - first);
    if (this.#room.p.length < t + 1 - first) this.#room.p = new Float64Array(2 * (t + 1 - first));
    const k = this.#kept[n].k.data, r = w.r.data, e = w.e.data, p = this.#room.p;
    for (let x = 0; x < Dh; x++) {
      qk[x] = ((a ? q[at + from + x] : 0) + (c ? w.u[from + x] : 0)) * scale;
      qr[x] = (b ? q[at + from + x] : 0) * scale;
    }
    for (let j = first; j <= t; j++) {
      const key = j * HD + from, distance = (t - j) * HD + from;
      let score = d ? e[(t - j) * H + head] * scale : 0;
      for (let x = 0; x < Dh; x++) score += qk[x] * k[key + x] + qr[x] * r[distance + x];
      p[j - first] = score; // no mask: later keys than t do not exist yet
    }
    return p;
  }

  /** log p (V,) after token t, by all layers. Given `queries`, they are put there and nothing is kept. */
  #forward(t, terms, queries = null) {
    const { config: c, layers, embedding, softmax: E, softmaxBias } = this.model;
    const { h, x, y, f, q, o, z } = this.#room, D = c.d_model, HD = c.n_head * c.d_head, first = this.firstKey(t);
    for (let i = 0; i < D; i++) h[i] = Math.sqrt(D) * embedding[this.#tokens[t] * D + i]; // h_0 = sqrt(D) E[x]
    layers.forEach((w, n) => {
      const kept = this.#kept[n];
      // a = x + attention(LN(h)) with pre_lnorm, else a = LN(x + attention(h)): h becomes a
      if (c.pre_lnorm) layerNorm(x, h, w.attnGamma, w.attnBeta, c.layer_norm_epsilon);
      else x.set(h);
      linear(q, w.q, c.pre_lnorm && c.raw_queries ? h : x); // q = W_q x: (D,) -> (H*Dh,)
      if (queries) queries.push(Float32Array.from(q));
      else {
        kept.q.set(t, q);
        kept.k.set(t, linear(q, w.k, x)); // from here on `q` is only room
        kept.v.set(t, linear(q, w.v, x));
      }
      o.fill(0);
      for (let head = 0; head < c.n_head; head++) {
        const p = this.#scores(n, head, t, queries ? queries[n] : kept.q.data, queries ? 0 : t * HD, terms);
        softmax(p, t + 1 - first);
        const from = head * c.d_head, v = kept.v.data;
        for (let j = first; j <= t; j++) { // o = sum_j p_j v_j
          const weight = p[j - first], value = j * HD + from;
          for (let i = 0; i < c.d_head; i++) o[from + i] += weight * v[value + i];
        }
      }
      linear(y, w.o, o); // (H*Dh,) -> (D,)
      for (let i = 0; i < D; i++) h[i] += y[i];
      // y = a + FF(LN(a)) with pre_lnorm, else y = LN(a + FF(a)); FF(a) = W_2 relu(W_1 a + b_1) + b_2
      layerNorm(c.pre_lnorm ? x : h, h, ...(c.pre_lnorm ? [w.ffGamma, w.ffBeta] : [w.attnGamma, w.attnBeta]), c.layer_norm_epsilon);
      linear(f, w.w1, c.pre_lnorm ? x : h, w.b1); // (D,) -> (F,)
      for (let i = 0; i < f.length; i++) if (f[i] < 0) f[i] = 0;
      linear(y, w.w2, f, w.b2); // (F,) -> (D,)
      for (let i = 0; i < D; i++) h[i] += y[i];
      if (!c.pre_lnorm) layerNorm(h, h, w.ffGamma, w.ffBeta, c.layer_norm_epsilon);
    });
    linear(z, E, h, softmaxBias); // logits z = E h + b: (D,) -> (V,)
    let top = -Infinity, sum = 0;
    for (const one of z) top = Math.max(top, one);
    for (const one of z) sum += Math.exp(one - top);
    const log = top + Math.log(sum); // log p = z - log sum exp(z)
    for (let i = 0; i < z.length; i++) z[i] -= log;
    return z;
  }
}

// The Transformer-XL in plain JavaScript: it reads one token after the other, as minitxl does.
// The only file to read: no page, no library and no other file is needed for it. (In a page from a
// file, browsers start only classic workers from a `blob:`; for those, strip the words `export`.)
//
//   const model = new Model(run.config, readSafetensors(await file.arrayBuffer()));
//   const reader = new Reader(model, { T: 64, M: 256 }); // segments of T tokens, a memory of M
//   const logP = reader.push(token); // of the next token, in nats
//
// Shapes: D width of the states, H heads of Dh, F inside of the feed-forward block, V tokens. All
// matrices are kept as (out, in), so that each sum runs along one row. Positions t, j count from
// the first token that was read; d = t - j is a distance. Sections are the paper's.
//
// A key k = W_k h and a value v = W_v h depend on the state h of their token alone, and a state is
// computed once, in its own segment. So queries, keys and values of all tokens are kept, and
//   memory = [first, start)    segment = [start, t]    keys of token t = [first, t]
// are only ranges of them: the states in memory are held fixed, as in training (sec. 3.2).

// --- files --------------------------------------------------------------------------------------

const shown = (value) => JSON.stringify(String(value).slice(0, 60)); // files come from anywhere
const isWhole = (n, least) => Number.isSafeInteger(n) && n >= least;

const DECODERS = {
  F16: [2, (bytes) => Float32Array.from(new Uint16Array(bytes), fromFloat16)],
  F32: [4, (bytes) => new Float32Array(bytes)],
  F64: [8, (bytes) => Float32Array.from(new Float64Array(bytes))],
}; // type -> [bytes of a number, decoder]

function fromFloat16(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

/** A safetensors file (ArrayBuffer) -> Map of name -> { shape, data: Float32Array }. */
export function readSafetensors(buffer) {
  const check = (right, why) => {
    if (!right) throw new Error(`this is no whole safetensors file: ${why}`);
  };
  const size = buffer.byteLength;
  const length = size < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  check(length <= size - 8, `it is cut short (${size} bytes long), or something else`);
  let header = null;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  } catch {} // null says it
  check(header !== null && typeof header === "object", "its header cannot be read");
  delete header.__metadata__;
  const whole = (list) => Array.isArray(list) && list.every((n) => isWhole(n, 0));
  for (const [name, entry] of Object.entries(header)) {
    const { shape, data_offsets: place } = entry ?? {};
    const right = whole(shape) && whole(place) && place.length === 2;
    check(right, `the entry of tensor ${shown(name)} is malformed`);
    check(Object.hasOwn(DECODERS, entry.dtype), `tensor ${shown(name)} is not F16, F32 or F64`);
  }
  const tensors = new Map(), all = size - 8 - length;
  const byPlace = ([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0];
  let at = 0;
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header).sort(byPlace)) {
    const [start, stop] = data_offsets, [width, decode] = DECODERS[dtype];
    const right = start === at && stop - start === shape.reduce((n, side) => n * side, width);
    check(right && stop <= all, `tensor ${shown(name)} fits neither its shape nor the file`);
    const bytes = buffer.slice(8 + length + start, 8 + length + stop); // a copy is aligned
    tensors.set(name, { shape, data: decode(bytes) });
    at = stop;
  }
  check(at === all, `its tensors end at byte ${at} of ${all}`);
  return tensors;
}

// --- models -------------------------------------------------------------------------------------

const DEFAULTS = {
  ...{ attn_type: 0, clamp_len: -1, same_length: false, untie_r: false, pre_lnorm: false },
  ...{ layer_norm_epsilon: 1e-5, ext_len: 0, max_klen: 0, d_embed: 0, cutoffs: [], div_val: 1 },
  ...{ tie_weight: true, start_mems: "empty", same_length_extra: 0, raw_queries: false },
};
const withDefaults = (config) => ({ ...DEFAULTS, ...config, ...config?.released });

/** "", or in one sentence why a model of this configuration cannot be read in the page. */
export function whyNot(config) {
  const c = withDefaults(config);
  for (const name of ["n_token", "n_layer", "d_model", "n_head", "d_head", "d_inner", "tgt_len"]) {
    if (!isWhole(c[name], 1)) return `Its ${name} is ${shown(c[name])}, not a number from 1.`;
  }
  if (!isWhole(c.mem_len, 0)) return `Its mem_len is ${shown(c.mem_len)}, not a number from 0.`;
  if (c.attn_type !== 0 && c.attn_type !== 1) {
    return `Its attn_type is ${shown(c.attn_type)}; relative positions of types 0 and 1 run here.`;
  }
  if (c.attn_type === 0 && c.d_model % 2) return "Its d_model is odd, but half of R is sines.";
  if (c.cutoffs?.length !== 0 || c.div_val !== 1) return "Its softmax is adaptive (cutoffs).";
  if (c.d_embed !== 0 && c.d_embed !== c.d_model) return "Its embedding is projected (d_embed).";
  if (c.ext_len !== 0) return "It reads the end of each segment twice (ext_len).";
  if (c.start_mems !== "empty") return "Its memory begins as zeros (start_mems).";
  if ((c.memory?.kind ?? "xl") !== "xl") return `Its memory is ${shown(c.memory.kind)}, not xl.`;
  if (hidesAll(c, c.mem_len)) return "With same_length and no memory it sees no key, not its own.";
  return "";
}

const hidesAll = (c, M) => c.same_length && M + c.same_length_extra < 1;

/** Weights, checked against their configuration (of run.json). Readers can share a model. */
export class Model {
  constructor(config, tensors) {
    const why = whyNot(config);
    if (why) throw new Error(why);
    const c = (this.config = withDefaults(config));
    const { d_model: D, d_inner: F, n_token: V, n_head: H, d_head: Dh } = c;
    const eps = c.layer_norm_epsilon;
    const take = (name, ...shape) => {
      const { data, shape: found } = tensors.get(`params.${name}`) ?? {};
      let wrong = data ? "" : "is not in the file";
      if (data && String(found) !== String(shape)) wrong = `has shape ${found}, not ${shape}`;
      else if (data && !data.every(Number.isFinite)) wrong = "holds NaN or infinite numbers";
      if (wrong) throw new Error(`params.${name} ${wrong}: the weights are of another model`);
      return data;
    };
    const matrix = (name, from, to) => transposed(take(name, from, to), from, to);
    const end = c.tie_weight ? "" : ".0";
    this.embedding = take(`word_emb${end}`, V, D);
    this.softmax = c.tie_weight ? this.embedding : take(`out_emb${end}`, V, D); // as a rule one E
    this.softmaxBias = take(`out_bias${end}`, V);
    const w = Float64Array.from({ length: D / 2 }, (_, k) => 10000 ** ((-2 * k) / D));
    this.frequencies = tensors.get("constants.inv_freq")?.data ?? w;
    const right = this.frequencies.length === w.length && this.frequencies.every(Number.isFinite);
    if (!right) throw new Error(`constants.inv_freq are not ${D / 2} numbers: of another model`);
    this.layers = [];
    for (let n = 0; n < c.n_layer; n++) {
      const p = `layers.${n}.`, own = c.untie_r || c.attn_type === 1 ? p : ""; // or all layers'
      const L = c.max_klen || c.tgt_len + c.mem_len; // rows of a learned table
      const norm = (name) => [take(`${p + name}.gamma`, D), take(`${p + name}.beta`, D), eps];
      const [q, k, v, r] = ["q", "k", "v", "r"].map((name) =>
        name === "r" && c.attn_type === 1 ? null : matrix(`${p}attn.w_${name}`, D, H * Dh));
      const o = matrix(`${p}attn.w_o`, H * Dh, D), u = take(`${own}r_w_bias`, H, Dh);
      const w1 = matrix(`${p}ff.w_1`, D, F), b1 = take(`${p}ff.b_1`, F);
      const w2 = matrix(`${p}ff.w_2`, F, D), b2 = take(`${p}ff.b_2`, D);
      const positions = r
        ? { wr: r, bias: take(`${own}r_r_bias`, H, Dh) }
        : { table: take(`${p}r_emb`, L, H, Dh), bias: take(`${p}r_bias`, L, H) };
      const norms = { attnNorm: norm("attn_norm"), ffNorm: norm("ff_norm") };
      const byDistance = { r: new Rows(H * Dh), e: new Rows(H) }; // `learnDistances` fills them
      this.layers.push({ q, k, v, o, u, w1, b1, w2, b2, positions, ...norms, ...byDistance });
    }
  }

  /** See to it that r_d (H*Dh) and e_d (H) are known for all d < n: a score has q.r_d + e_d. */
  learnDistances(n) {
    const { d_model: D, n_head: H, d_head: Dh, clamp_len } = this.config, half = D / 2;
    const most = clamp_len > 0 ? clamp_len : Infinity; // from there on all distances are alike
    for (let d = this.layers[0].r.length; d < n; d++) {
      const R = new Float64Array(D);
      for (let i = 0; i < D; i++) { // R_d = [sin(d w) | cos(d w)] (sec. 3.3)
        R[i] = (i < half ? Math.sin : Math.cos)(Math.min(d, most) * this.frequencies[i % half]);
      }
      for (const { r, e, positions: { wr, table, bias } } of this.layers) {
        if (wr) { // of this paper: r_d = W_{k,R} R_d, e_d = v . r_d
          const rd = linear(new Float64Array(H * Dh), wr, R);
          r.set(d, rd);
          e.set(d, rd.slice(0, H).map((_, h) => dot(bias, h * Dh, rd, h * Dh, Dh)));
        } else { // of Shaw et al. 2018: learned rows, the last for d = 0
          const L = bias.length / H, row = L - 1 - Math.min(d, L - 1, most - 1);
          r.set(d, table.subarray(row * H * Dh, (row + 1) * H * Dh));
          e.set(d, bias.subarray(row * H, (row + 1) * H));
        }
      }
    }
  }
}

// --- operations ---------------------------------------------------------------------------------

/** Rows of one width whose number grows: `data` is (room, width), `length` rows are in use. */
class Rows {
  constructor(width, Type = Float32Array) {
    Object.assign(this, { width, length: 0, data: new Type(64 * width) });
  }

  set(row, values) {
    if ((row + 1) * this.width > this.data.length) {
      const old = this.data;
      this.data = new old.constructor(2 * old.length);
      this.data.set(old);
    }
    this.data.set(values, row * this.width);
    this.length = row + 1;
  }

  clone() { return Object.assign(new Rows(0), this, { data: this.data.slice() }); }

  get(row) { return this.data.slice(row * this.width, (row + 1) * this.width); }
}

/** minitxl's w (in, out) of y = x w -> W (out, in) of y = W x. */
function transposed(w, from, to) {
  const W = new Float32Array(w.length);
  for (let i = 0; i < from; i++) for (let j = 0; j < to; j++) W[j * from + i] = w[i * to + j];
  return W;
}

function dot(x, at, y, from, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += x[at + i] * y[from + i];
  return sum;
}

/** y_j += x . W_j for n rows of W: the first begins at `at`, each next one `stride` further on.
 *  Four rows at a time: x is read once for four sums, which halves the time. */
function addDots(y, n, x, W, at, stride) {
  const width = x.length;
  let j = 0;
  for (; j + 3 < n; j += 4, at += 4 * stride) {
    const at1 = at + stride, at2 = at1 + stride, at3 = at2 + stride;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (let i = 0; i < width; i++) {
      const xi = x[i];
      s0 += xi * W[at + i]; s1 += xi * W[at1 + i]; s2 += xi * W[at2 + i]; s3 += xi * W[at3 + i];
    }
    y[j] += s0; y[j + 1] += s1; y[j + 2] += s2; y[j + 3] += s3;
  }
  for (; j < n; j++, at += stride) y[j] += dot(x, 0, W, at, width);
}

/** y = W x + b. */
function linear(y, W, x, b = null) {
  if (b) y.set(b); else y.fill(0);
  addDots(y, y.length, x, W, 0, x.length);
  return y;
}

/** y[to ...] += sum_j p_j v_j for n rows of `width` numbers, laid out as in `addDots`. */
function addWeighted(y, to, width, p, n, v, at, stride) {
  let j = 0;
  for (; j + 3 < n; j += 4, at += 4 * stride) {
    const at1 = at + stride, at2 = at1 + stride, at3 = at2 + stride;
    const p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
    for (let i = 0; i < width; i++) {
      y[to + i] += p0 * v[at + i] + p1 * v[at1 + i] + p2 * v[at2 + i] + p3 * v[at3 + i];
    }
  }
  for (; j < n; j++, at += stride) for (let i = 0; i < width; i++) y[to + i] += p[j] * v[at + i];
}

function add(y, x) { for (let i = 0; i < y.length; i++) y[i] += x[i]; }

/** y = gamma x^ + beta, x^ = (x - mean) / sqrt(var + eps); y may be x. */
function layerNorm(y, x, [gamma, beta, eps]) {
  const n = x.length;
  let mean = 0, variance = 0;
  for (let i = 0; i < n; i++) mean += x[i] / n;
  for (let i = 0; i < n; i++) variance += (x[i] - mean) ** 2 / n;
  const rstd = 1 / Math.sqrt(variance + eps);
  for (let i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
}

/** x = exp(x) / sum exp(x) in place, for the first n numbers; returns log sum exp(x). */
function softmax(x, n) {
  let top = -Infinity, sum = 0;
  for (let i = 0; i < n; i++) if (x[i] > top) top = x[i];
  for (let i = 0; i < n; i++) sum += x[i] = Math.exp(x[i] - top);
  for (let i = 0; i < n; i++) x[i] /= sum;
  return top + Math.log(sum);
}

// --- reading ------------------------------------------------------------------------------------

const ALL_TERMS = [true, true, true, true]; // a, b, c, d of a score

/** A text in reading: its tokens, and what every layer has kept of them. */
export class Reader {
  #tokens = new Rows(1, Int32Array);
  #marks = new Rows(4, Int32Array); // for each token start, first, T, M when it was to be read
  #logP; // (length, V)
  #kept; // for each layer q, k, v: (length, H*Dh)
  #room; // for numbers on their way: reading makes no new arrays in its loops

  /** Segments of T >= 1 tokens and a memory of M >= 0. */
  constructor(model, { T = model.config.tgt_len, M = model.config.mem_len } = {}) {
    const { n_token: V, d_model: D, d_inner: F, n_head: H, d_head: Dh } = model.config;
    this.model = model;
    this.first = this.start = 0; // where the memory and the current segment begin
    this.#logP = new Rows(V);
    const rows = () => new Rows(H * Dh);
    this.#kept = model.layers.map(() => ({ q: rows(), k: rows(), v: rows() }));
    const room = { h: D, x: D, y: D, f: F, q: H * Dh, o: H * Dh, qk: Dh, qr: Dh, p: 256, bd: 256 };
    for (const name in room) room[name] = new Float64Array(room[name]);
    this.#room = { ...room, z: new Float64Array(V) };
    this.setLengths(T, M);
  }

  /** Another reader in the same state, to go on from here in another way. */
  clone() {
    const other = new Reader(this.model, this);
    Object.assign(other, { start: this.start, first: this.first });
    other.#tokens = this.#tokens.clone();
    other.#marks = this.#marks.clone();
    other.#logP = this.#logP.clone();
    other.#kept = this.#kept.map(({ q, k, v }) => ({ q: q.clone(), k: k.clone(), v: v.clone() }));
    return other;
  }

  get length() { return this.#tokens.length; } // tokens read

  /** Read a token; return log p (V,) of the next one. A segment that is full ends at once. */
  push(token) {
    const most = this.model.config.n_token - 1;
    const right = isWhole(token, 0) && token <= most;
    if (!right) throw new Error(`token ${shown(token)} is none of the model's 0 ... ${most}`);
    const t = this.length;
    this.#marks.set(t, [this.start, this.first, this.T, this.M]);
    this.#tokens.set(t, [token]);
    this.#logP.set(t, this.#forward(t, ALL_TERMS));
    if (this.length - this.start >= this.T) this.endSegment();
    return this.logProbs(t);
  }

  /** log p (V,) of the token after t, in nats. */
  logProbs(t) { return this.#logP.get(this.#known(t)); }

  /** Nats of token t, given what was before; NaN for the first one, which nothing predicts. */
  nll(t) {
    if (this.#known(t) === 0) return NaN;
    return -this.#logP.data[(t - 1) * this.#logP.width + this.#tokens.data[t]];
  }

  // --- the memory (sec. 3.2) --------------------------------------------------------------------

  /** The segment ends: the last M of [memory ; segment] are what the next one remembers. */
  endSegment() {
    this.first = Math.max(this.first, this.length - this.M);
    this.start = this.length;
  }

  /** The memory is emptied: tokens from here on see those of their own segment alone. */
  wipe() { this.first = this.start; }

  /** Other lengths from here on: a longer memory fills up by and by, a shorter one is cut now. */
  setLengths(T, M) {
    const right = isWhole(T, 1) && isWhole(M, 0) && Math.max(T, M) < 2 ** 31;
    if (!right) throw new Error(`T=${shown(T)}, M=${shown(M)} must be whole numbers, T at least 1`);
    if (hidesAll(this.model.config, M)) throw new Error("with same_length M must be at least 1");
    Object.assign(this, { T, M, first: Math.max(this.first, this.start - M) });
    if (this.length - this.start >= T) this.endSegment();
  }

  /** Forget the tokens n, n + 1, ...: all is as it was when token n was about to be read. */
  truncate(n) {
    if (!isWhole(n, 0)) throw new Error(`${shown(n)} tokens cannot be kept; give a whole number`);
    if (n >= this.length) return;
    [this.start, this.first, this.T, this.M] = this.#marks.get(n);
    this.#tokens.length = n;
  }

  /** Where the segment of token t begins. */
  segmentStart(t) { return this.#marks.data[4 * this.#known(t)]; }

  /** The oldest key of token t. With same_length it sees no more than M, its own included. */
  firstKey(t) {
    const at = 4 * this.#known(t), first = this.#marks.data[at + 1], M = this.#marks.data[at + 3];
    const { same_length, same_length_extra } = this.model.config;
    return same_length ? Math.max(first, t + 1 - M - same_length_extra) : first;
  }

  // --- what it looked at ------------------------------------------------------------------------

  /** Weights of token t on its keys firstKey(t) ... t; layer or head -1: the mean of all. */
  attention(t, layer, head) {
    return this.#weights(this.#known(t), layer, head, ALL_TERMS, (n) => this.#kept[n].q.get(t));
  }

  /** The four terms of its scores by key, as they come into the softmax: { a, b, c, d }. */
  scores(t, layer, head) {
    const q = this.#kept[layer].q.get(this.#known(t)), n = this.#nKey(t);
    const alone = (term) => ALL_TERMS.map((_, other) => other === term);
    const one = (i) => new Float32Array(this.#scores(t, layer, head, alone(i), q).slice(0, n));
    return { a: one(0), b: one(1), c: one(2), d: one(3) };
  }

  /** Token t read again without some terms, in all layers, on keys and values as they are kept. */
  recompute(t, { terms = ALL_TERMS } = {}) {
    const queries = [];
    const logProbs = new Float32Array(this.#forward(this.#known(t), terms, queries));
    const attention = (layer, head) => this.#weights(t, layer, head, terms, (n) => queries[n]);
    return { logProbs, attention };
  }

  #known(t) {
    if (isWhole(t, 0) && t < this.length) return t;
    throw new Error(`token ${shown(t)} was not read; ${this.length} were`);
  }

  #nKey(t) { return t + 1 - this.firstKey(t); }

  #weights(t, layer, head, terms, queryOf) {
    const { n_layer, n_head } = this.model.config;
    const chosen = (one, n) => {
      if (!isWhole(one, -1) || one >= n) throw new Error(`there is no layer or head ${shown(one)}`);
      return one < 0 ? [...Array(n).keys()] : [one];
    };
    const layers = chosen(layer, n_layer), heads = chosen(head, n_head);
    const mean = new Float32Array(this.#nKey(t)), share = 1 / (layers.length * heads.length);
    for (const n of layers) for (const h of heads) {
      const p = this.#scores(t, n, h, terms, queryOf(n));
      softmax(p, mean.length);
      for (let j = 0; j < mean.length; j++) mean[j] += p[j] * share;
    }
    return mean;
  }

  // --- the model (sec. 3.3) ---------------------------------------------------------------------

  /** Scores of token t on its keys, (a + b + c + d) / sqrt(Dh), for one head of its query q:
   *    a  q . k_j    b  q . r_d    c  u . k_j    d  e_d = v . r_d
   *  No mask is needed: there are no keys of later tokens yet. */
  #scores(t, layer, head, [a, b, c, d], q) {
    const { n_head: H, d_head: Dh } = this.model.config;
    const { u, r, e } = this.model.layers[layer], { qk, qr } = this.#room;
    const first = this.firstKey(t), n = t + 1 - first, at = head * Dh, stride = H * Dh;
    this.model.learnDistances(n);
    for (const x of ["p", "bd"]) {
      if (this.#room[x].length < n) this.#room[x] = new Float64Array(2 * n);
    }
    const { p, bd } = this.#room;
    const scale = 1 / Math.sqrt(Dh), bias = d ? scale : 0;
    for (let i = 0; i < Dh; i++) {
      qk[i] = ((a ? q[at + i] : 0) + (c ? u[at + i] : 0)) * scale; // a + c = (q + u) . k
      qr[i] = (b ? q[at + i] : 0) * scale;
    }
    for (let j = 0; j < n; j++) [p[j], bd[j]] = [0, e.data[j * H + head] * bias];
    addDots(p, n, qk, this.#kept[layer].k.data, first * stride + at, stride);
    addDots(bd, n, qr, r.data, at, stride);
    for (let j = 0; j < n; j++) p[j] += bd[n - 1 - j]; // by distance -> by key: rel-shift
    return p;
  }

  /** o = softmax(scores) v for all heads of token t -> (H*Dh,). */
  #attend(t, layer, terms, q) {
    const { n_head: H, d_head: Dh } = this.model.config;
    const first = this.firstKey(t), n = t + 1 - first, stride = H * Dh, o = this.#room.o.fill(0);
    for (let head = 0; head < H; head++) {
      const p = this.#scores(t, layer, head, terms, q);
      softmax(p, n);
      const at = head * Dh;
      addWeighted(o, at, Dh, p, n, this.#kept[layer].v.data, first * stride + at, stride);
    }
    return o;
  }

  /** log p (V,) after token t. With `queries` it puts them there, and keeps nothing. */
  #forward(t, terms, queries = null) {
    const { config: c, layers, embedding, softmax: E, softmaxBias } = this.model;
    const { h, x, y, f, q, z } = this.#room; // h, x, y (D,); f (F,); q (H*Dh,); z (V,)
    const row = this.#tokens.data[t] * c.d_model;
    for (let i = 0; i < h.length; i++) h[i] = Math.sqrt(c.d_model) * embedding[row + i]; // h_0
    for (let n = 0; n < layers.length; n++) {
      const [w, kept] = [layers[n], this.#kept[n]];
      // a = LN(h + attention(h)), or with pre_lnorm a = h + attention(LN(h)); a takes h's place
      if (c.pre_lnorm) layerNorm(x, h, w.attnNorm); else x.set(h);
      linear(q, w.q, c.pre_lnorm && c.raw_queries ? h : x); // (D,) -> (H*Dh,)
      const asked = new Float32Array(q);
      queries?.push(asked);
      if (!queries) {
        kept.q.set(t, q);
        kept.k.set(t, linear(q, w.k, x));
        kept.v.set(t, linear(q, w.v, x));
      }
      add(h, linear(y, w.o, this.#attend(t, n, terms, asked))); // (H*Dh,) -> (D,)
      // y = LN(a + FF(a)), or y = a + FF(LN(a)); FF(a) = W_2 relu(W_1 a + b_1) + b_2
      if (!c.pre_lnorm) layerNorm(h, h, w.attnNorm);
      if (c.pre_lnorm) layerNorm(x, h, w.ffNorm); else x.set(h);
      linear(f, w.w1, x, w.b1); // (D,) -> (F,)
      for (let i = 0; i < f.length; i++) if (f[i] < 0) f[i] = 0;
      add(h, linear(y, w.w2, f, w.b2)); // (F,) -> (D,)
      if (!c.pre_lnorm) layerNorm(h, h, w.ffNorm);
    }
    linear(z, E, h, softmaxBias); // logits, (D,) -> (V,)
    const total = softmax(new Float64Array(z), z.length);
    return z.map((logit) => logit - total); // log p = z - log sum exp(z)
  }
}

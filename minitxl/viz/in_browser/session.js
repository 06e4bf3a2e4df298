// What happens to a text that is read with a memory: read on, take back, wipe, write, compare. No
// page is needed for this; it runs in a worker (worker.js) and stands on model.js.
//
// Two readers read the same text. `main` does what is asked. `other` is what it is compared with:
// either it never has a memory, or it is the reader as it was before the last change ("before").
// A change holds from the segment that is being read: that segment is read again, from its start.

export class Session {
  #means = null; // what #meanByDistance keeps while nothing is read again

  constructor(model, { T, M }) {
    this.model = model;
    this.tokens = [];
    this.changes = [{ at: 0, T, M, wiped: false }]; // each is all that holds from `at`, a segment's start
    this.compare = "none"; // or "before"
    this.main = new Reader(model, { T, M });
    this.other = new Reader(model, { T, M: 0 });
    this.bits = { main: [], other: [] }; // of each token read, NaN for the first
  }

  get length() {
    return this.tokens.length;
  }

  /** The settings that hold now. */
  get setting() {
    return this.changes.at(-1);
  }

  read(token) {
    const t = this.length;
    this.tokens.push(token);
    for (const name of ["main", "other"]) {
      this[name].push(token);
      this.bits[name][t] = this[name].nll(t) / Math.LN2;
    }
  }

  /** Read a token whose comparison is known already; `compareWith` begins to compare again. */
  readKnown(token, otherBits) {
    const t = this.length;
    this.tokens.push(token);
    this.main.push(token);
    this.bits.main[t] = this.main.nll(t) / Math.LN2;
    this.bits.other[t] = otherBits;
  }

  /** Forget the tokens n ... ; what they had changed is as it was. */
  takeBack(n) {
    this.tokens.length = this.bits.main.length = this.bits.other.length = n;
    this.#means = null;
    this.main.truncate(n);
    this.other.truncate(n);
    const undone = this.setting.at > n;
    while (this.setting.at > n) this.changes.pop();
    if (undone) this.compareWith("none");
  }

  /** Read with other lengths, or a wiped memory, from the start of this segment on. */
  change({ T, M, wiped }) {
    const { start: at } = this.main;
    const old = this.setting;
    const again = old.at === at; // a second change here is compared with what was before the first
    const next = { at, T: T ?? old.T, M: M ?? old.M, wiped: wiped ?? (again && old.wiped) };
    next.previous = again ? (old.previous ?? old) : old;
    if (!(again && this.compare === "before")) this.other = this.main.clone();
    if (again) this.changes.pop();
    this.changes.push(next);
    this.compare = "before";
    this.#means = null;
    this.#readAgain(this.main, next, at);
    this.#measure(at);
  }

  /** What to compare with from here on: "none", no memory at all; "before", before the last change. */
  compareWith(what) {
    const { setting } = this;
    this.compare = setting.previous ? what : "none";
    const before = this.compare === "before";
    const from = before ? setting.at : this.#lastStart;
    this.other = this.main.clone();
    this.#readAgain(this.other, before ? setting.previous : { ...setting, M: 0 }, from);
    this.#measure(from);
  }

  /** Read the tokens from `at` on again, with a setting of which only the lengths count. */
  #readAgain(reader, { T, M, wiped, at: since }, at) {
    reader.truncate(at);
    reader.setLengths(T, M);
    // what fell out of the memory is kept as it was computed: a longer memory finds it again
    reader.first = Math.max(wiped && since === at ? at : this.#wipedBefore(at), at - M);
    for (let t = at; t < this.length; t++) reader.push(this.tokens[t]);
  }

  /** Where the last token's segment begins: this one, or, where nothing of it is read, the one before. */
  get #lastStart() {
    return this.length ? this.main.segmentStart(this.length - 1) : 0;
  }

  /** Bits of the last segment's tokens, read with a memory of M instead; nothing is changed by it. */
  costWith(M) {
    const start = this.#lastStart;
    const reader = this.main.clone();
    this.#readAgain(reader, { ...this.setting, M }, start);
    return Array.from({ length: this.length - start }, (_, i) => reader.nll(start + i) / Math.LN2);
  }

  /** The last place before `at` at which the memory was wiped. */
  #wipedBefore(at) {
    return Math.max(0, ...this.changes.filter((c) => c.wiped && c.at < at).map((c) => c.at));
  }

  #measure(from) {
    for (const name of ["main", "other"]) {
      for (let t = from; t < this.length; t++) this.bits[name][t] = this[name].nll(t) / Math.LN2;
    }
  }

  /** Draw the next token: p ~ exp(log p / temperature); 0 takes the likeliest. */
  draw(temperature) {
    const logP = this.main.logProbs(this.length - 1);
    if (temperature <= 0) return logP.indexOf(Math.max(...logP));
    const top = Math.max(...logP);
    const weights = Array.from(logP, (x) => Math.exp((x - top) / temperature));
    let left = Math.random() * weights.reduce((sum, w) => sum + w, 0);
    for (let token = 0; token < weights.length; token++) {
      left -= weights[token];
      if (left <= 0) return token;
    }
    return weights.length - 1;
  }

  /** Everything that is shown when one points at the tokens `at`; several: the mean of them. */
  look({ at, layer, head, terms }) {
    const { n_layer: nLayer, n_head: nHead } = this.model.config;
    const all = terms.every(Boolean);
    const views = at.map((t) =>
      all ? { logProbs: this.main.logProbs(t), attention: (l, h) => this.main.attention(t, l, h) }
          : this.main.recompute(t, { terms }),
    );
    const mean = (l, h) => {
      const sum = new Float64Array(this.length);
      views.forEach((view, i) => {
        const first = this.main.firstKey(at[i]);
        view.attention(l, h).forEach((w, j) => (sum[first + j] += w / at.length));
      });
      return sum;
    };
    const shares = []; // of every layer: the mean of its heads, then each of them
    for (let l = 0; l < nLayer; l++) {
      const inMemory = Array.from({ length: nHead }, (_, h) => {
        let share = 0;
        views.forEach((view, i) => {
          const row = view.attention(l, h);
          const cached = this.main.segmentStart(at[i]) - this.main.firstKey(at[i]);
          for (let j = 0; j < cached; j++) share += row[j] / at.length;
        });
        return share;
      });
      shares.push(inMemory.reduce((sum, x) => sum + x, 0) / nHead, ...inMemory);
    }
    const one = at.length === 1;
    return {
      weights: mean(layer, head),
      shares,
      mean: one ? this.#meanByDistance(at[0], layer, head) : null,
      next: one ? views[0].logProbs : null,
      nextOther: one ? this.other.logProbs(at[0]) : null,
      scores: one && head >= 0 ? this.main.scores(at[0], layer, head) : null,
      first: Math.min(...at.map((t) => this.main.firstKey(t))),
      start: Math.max(...at.map((t) => this.main.segmentStart(t))),
    };
  }

  /** Mean weight at distance 0, 1, ... over the tokens of t's segment; what was added up is kept. */
  #meanByDistance(t, layer, head) {
    const start = this.main.segmentStart(t);
    const key = `${start},${layer},${head}`;
    if (this.#means?.key !== key) this.#means = { key, next: start, total: [], seen: [] };
    const { total, seen } = this.#means;
    for (let i = this.#means.next; i < this.length && this.main.segmentStart(i) === start; i++) {
      const row = this.main.attention(i, layer, head);
      const far = i - this.main.firstKey(i);
      row.forEach((weight, j) => {
        total[far - j] = (total[far - j] ?? 0) + weight;
        seen[far - j] = (seen[far - j] ?? 0) + 1;
      });
      this.#means.next = i + 1;
    }
    return Float64Array.from(total, (sum, d) => (seen[d] ? sum / seen[d] : NaN));
  }

  /** What the page needs to know of the tokens from `from` on. */
  news(from) {
    const tokens = this.tokens.slice(from);
    const places = tokens.map((_, i) => from + i);
    return {
      from,
      tokens,
      bits: this.bits.main.slice(from),
      otherBits: this.bits.other.slice(from),
      starts: places.map((t) => this.main.segmentStart(t)),
      start: this.main.start,
      memoryStart: this.main.first,
      setting: this.setting,
      changes: this.changes,
      compare: this.compare,
    };
  }
}

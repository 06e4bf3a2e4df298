// The worker: one message, one deed of a Session; between two tokens it listens. Long deeds ("read",
// "write") end early when "stop" comes, or another deed that changes the text. Every answer bears the
// number of its question.

export function serve(post) {
  let session = null;
  let model = null;
  let running = 0; // the long deed that goes on; 0: none
  let told = 0; // the tokens of it that the page knows of

  const breath = () => {
    const { port1, port2 } = new MessageChannel();
    return new Promise((done) => {
      port1.onmessage = () => {
        port1.close();
        done();
      };
      port2.postMessage(0);
    });
  };

  /** Read what `next` gives, token by token; tells the page at most every 30 ms. */
  async function long(id, next, delay = 0) {
    running = id;
    told = session.length;
    let last = performance.now();
    for (let token = next(); token !== null && running === id; token = next()) {
      session.read(token);
      const now = performance.now();
      if (delay || now - last > 30) {
        post({ id, kind: "news", ...session.news(told) });
        [told, last] = [session.length, now];
      }
      await (delay ? new Promise((done) => setTimeout(done, delay)) : breath());
      if (running !== id) return; // whoever stopped it has told the rest
    }
    running = 0;
    post({ id, kind: "done", ...session.news(told) });
  }

  const deeds = {
    open({ config, weights, T, M }) {
      const refused = whyNot(config);
      if (refused) throw new Error(refused);
      model = new Model(config, readSafetensors(weights));
      session = new Session(model, { T, M });
      return { kind: "open" };
    },
    read: ({ id, tokens, delay }) => {
      let at = 0;
      return long(id, () => (at < tokens.length ? tokens[at++] : null), delay);
    },
    write: ({ id, count, temperature, delay }) => {
      let left = count;
      return long(id, () => (left-- > 0 ? session.draw(temperature) : null), delay);
    },
    stop: () => ({ kind: "news", ...session.news(session.length) }),
    takeBack({ n }) {
      session.takeBack(n);
      return { kind: "news", ...session.news(n) };
    },
    change(values) {
      session.change(values);
      return { kind: "news", ...session.news(session.setting.at) };
    },
    compareWith({ what }) {
      session.compareWith(what);
      return { kind: "news", ...session.news(Math.min(session.main.start, session.setting.at)) };
    },
    /** Begin anew; `tokens` are read in one go, and what they cost without memory is given. */
    async restart({ id, T, M, tokens = [], otherBits = [] }) {
      const mine = (session = new Session(model, { T, M }));
      [running, told] = [id, 0];
      for (let t = 0; t < tokens.length; t++) {
        mine.readKnown(tokens[t], otherBits[t]);
        if (t % 4 === 0) await breath();
        if (running !== id) return null; // whoever stopped it has told
      }
      running = 0;
      session.compareWith("none");
      return { kind: "news", ...session.news(0) };
    },
    costWith: ({ M }) => ({ kind: "cost", costs: session.costWith(M) }),
    look(question) {
      const { at } = question;
      if (!at.length || at.some((t) => t >= session.length)) return { kind: "gone" };
      return { kind: "look", at, ...session.look(question) };
    },
  };

  return async (message) => {
    try {
      if (message.kind !== "look") {
        if (running) post({ id: running, kind: "done", ...session.news(told) });
        running = 0;
      }
      const answer = await deeds[message.kind](message); // a long deed answers itself
      if (answer) post({ id: message.id, ...answer });
    } catch (error) {
      post({ id: message.id, kind: "error", text: error.message });
    }
  };
}

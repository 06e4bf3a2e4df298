// The page's side of the worker: questions with numbers, answers as they come. Where a page may start
// no worker, the same code runs in the page itself.

const address = (script) => URL.createObjectURL(new Blob([script], { type: "text/javascript" }));

class Engine {
  constructor(onNews) {
    this.onNews = onNews;
    this.waiting = new Map();
    this.count = 0;
  }

  async start(config, weights, lengths) {
    try {
      await this.#inWorker(address(WORKER));
    } catch {
      const { serve } = await import(address(`${WORKER}\nexport { serve };`));
      this.post = serve((message) => this.#hear(message));
    }
    return this.ask({ kind: "open", config, weights, ...lengths });
  }

  /** A worker that says that it is there; an error of its start is one of this promise. */
  #inWorker(url) {
    return new Promise((done, fail) => {
      const worker = new Worker(url); // no module: from a file, Chromium starts none
      worker.onerror = fail;
      worker.onmessage = () => {
        worker.onmessage = ({ data }) => this.#hear(data);
        this.post = (message) => worker.postMessage(message);
        this.end = () => worker.terminate();
        done();
      };
    });
  }

  #hear(message) {
    const question = this.waiting.get(message.id);
    if ("bits" in message) this.onNews(message);
    if (message.kind === "news" && question?.long) return; // more will come
    this.waiting.delete(message.id);
    if (message.kind === "error") question?.fail(new Error(message.text));
    else question?.done(message);
  }

  /** Ask; long deeds ("read", "write") answer at their end, with news on the way. */
  ask(message) {
    const id = ++this.count;
    const long = message.kind === "read" || message.kind === "write";
    return new Promise((done, fail) => {
      this.waiting.set(id, { done, fail, long });
      this.post({ ...message, id });
    });
  }

  end() {}
}

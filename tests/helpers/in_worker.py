"""minitxl/viz/in_browser/model.js in a worker, as a page from a file starts it: by `blob:`."""

import base64
import contextlib
import json
import re
from pathlib import Path

import minitxl
from helpers.in_browser import chromium

SOURCE = (Path(minitxl.__file__).parent / "viz/in_browser/model.js").read_text(encoding="utf-8")
# A page from a file may start no worker that is a module.
SCRIPT = re.sub("^export ", "", SOURCE, flags=re.MULTILINE)

# Around the engine: `load` makes a model, `steps` are calls of a reader, one after the other, of
# which the results come back.
WORKER = """
const models = {};
const plain = (x) => (ArrayBuffer.isView(x) ? [...x] : x);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const jobs = {
  whyNot,
  load: (name, config, text) => { models[name] = new Model(config, readSafetensors(bytes(text))); },
  names: (text) => [...readSafetensors(bytes(text)).keys()],
  read(name, lengths, steps) {
    const nlls = (from) => Array.from({ length: from.length }, (_, t) => (t ? from.nll(t) : null));
    const reader = new Reader(models[name], lengths);
    const own = {
      pushAll: (tokens) => { tokens.forEach((token) => reader.push(token)); },
      nlls: () => nlls(reader),
      ranges: () => Array.from({ length: reader.length }, (_, t) =>
        [reader.firstKey(t), reader.segmentStart(t)]),
      now: () => [reader.length, reader.first, reader.start, reader.T, reader.M],
      without(t, terms, layer, head) {
        const { logProbs, attention } = reader.recompute(t, { terms });
        return [plain(logProbs), plain(attention(layer, head))];
      },
      allScores: (t, layer, head) =>
        Object.values(reader.scores(t, layer, head)).map(plain),
      cloned(tokens) {
        const other = reader.clone();
        tokens.forEach((token) => other.push(token));
        return nlls(other);
      },
      speed(tokens) {
        const start = performance.now();
        tokens.forEach((token) => reader.push(token));
        return (1000 * tokens.length) / (performance.now() - start);
      },
    };
    return steps.map(([call, ...given]) =>
      plain(own[call] ? own[call](...given) : reader[call](...given)));
  },
};
onmessage = ({ data: [job, ...given] }) => {
  try {
    postMessage({ answer: jobs[job](...given) });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
"""
PAGE = """<!doctype html><title>engine</title><script>
globalThis.start = (source) => {
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(address);
  globalThis.ask = (message) => new Promise((done) => {
    setTimeout(() => done({ error: "the worker is silent" }), 60000);
    worker.onmessage = ({ data }) => done(data);
    worker.onerror = (e) => done({ error: `worker: ${e.message}` });
    worker.postMessage(message);
  });
};
</script>"""


class JavaScriptError(Exception):
    """What an Error in the worker says."""


def text_of(data: bytes) -> str:
    """Bytes as the worker takes them."""
    return base64.b64encode(data).decode("ascii")


@contextlib.contextmanager
def worker(folder: Path):
    """ask(job, ...) -> the answer of a worker; in the end the page must have been silent."""
    path = folder / "page.html"
    path.write_text(PAGE)
    with chromium() as browser:
        page = browser.new_context(offline=True).new_page()
        trouble = []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(path.as_uri())
        page.evaluate("start", SCRIPT + WORKER)

        def ask(*message):
            found = page.evaluate("(message) => ask(message)", json.loads(json.dumps(message)))
            if "error" in found:
                raise JavaScriptError(found["error"])
            return found.get("answer")

        yield ask
        assert trouble == []

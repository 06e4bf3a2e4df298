
// In a worker: be told and tell. (Imported by a page that may start none, `serve` is all it takes.)
if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) {
  const answer = serve((message) => self.postMessage(message));
  self.onmessage = ({ data }) => answer(data);
  self.postMessage({ kind: "there" });
}

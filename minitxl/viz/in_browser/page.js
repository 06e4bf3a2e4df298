// A page of its own: what anywidget does in a notebook is done here.

function bytesOf(text) {
  const letters = atob(text.trim());
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
}

const textIn = (id) => document.getElementById(id).textContent;

/** The state that the address or the saved page holds, or null. */
function keptState() {
  const kept = location.hash.match(/^#s=([\w=-]+)$/)?.[1];
  if (!kept) return textIn("state").trim() || null;
  try {
    return new TextDecoder().decode(bytesOf(kept.replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return null;
  }
}

/** This page as a file, with a state that it opens with. */
function savePage(state) {
  const page = document.documentElement.cloneNode(true);
  const live = page.querySelector("#live");
  live.replaceChildren("Loading: unpacking the model’s weights ...");
  live.removeAttribute("style"); // the policy forbids it in a file
  page.querySelector("#state").textContent = state.replaceAll("<", "\\u003c");
  const file = new Blob(["<!DOCTYPE html>\n", page.outerHTML], { type: "text/html" });
  const anchor = make("a", { href: URL.createObjectURL(file), download: "memory.html" });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
}

const place = document.getElementById("live");
mount(place, JSON.parse(textIn("data")), bytesOf(textIn("weights")).buffer, {
  saved: keptState(),
  save: savePage,
}).catch((error) => {
  place.textContent = `This browser cannot show the page: ${error.message}. It needs Chrome 123, ` +
    "Firefox 120, Safari 17.5 or later.";
});

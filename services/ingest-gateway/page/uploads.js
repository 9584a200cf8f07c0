// Files on their way to the server. They outlive the view they were dropped on, and end with the session they were dropped in.

import { session, upload } from "./api.js";
import { h, notice } from "./dom.js";

/** Files that are sent at the same time. */
const AT_ONCE = 3;
/** For how long a file stays in the list after it was taken. */
const SHOWN = 20_000;

let entries = [];
/** The view that shows them, if one does. */
let view = null;
/** The message about files that failed while no view showed them, and how many they are. */
let told = null;
let failures = 0;

const isOpen = (entry) => entry.state === "waits" || entry.state === "sends";

/** Takes files for a collection, as both are now. */
export function take(files, collection) {
  const { token } = session;
  for (const file of files) {
    const stop = new AbortController();
    const entry = { file, collection, token, stop, state: "waits", row: null };
    entry.row = rowOf(entry);
    entries.push(entry);
    view?.list.append(entry.row.box);
  }
  for (let turn = 0; turn < AT_ONCE; turn += 1) next();
}

/** Shows the files in a list until the signal; `onDone` is called when no more are on their way. */
export function attach(list, signal, onDone) {
  view = { list, onDone };
  list.append(...entries.map((entry) => entry.row.box));
  const mine = view;
  signal.addEventListener("abort", () => {
    if (view === mine) view = null;
  });
}

/** Forgets all files, and breaks off those that are being sent; answers how many had not arrived. */
export function clear() {
  const open = entries.filter(isOpen);
  for (const entry of [...entries]) forget(entry);
  return open.length;
}

function forget(entry) {
  entries = entries.filter((other) => other !== entry);
  entry.row.box.remove();
  entry.stop.abort();
  guard();
}

function rowOf(entry) {
  const { file, collection } = entry;
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
  const text = h("span", { class: "muted" }, "waits");
  const away = h("button", { type: "button", class: "quiet", "aria-label": `Remove ${file.name} from the list`, onclick: () => forget(entry) }, "×");
  const into = h("span", { class: "muted" }, ` into ${collection || "default"}`);
  return { bar, text, box: h("li", {}, h("span", {}, file.name, into), bar, text, away) };
}

async function next() {
  guard();
  const entry = entries.find(({ state }) => state === "waits");
  if (!entry || entries.filter(({ state }) => state === "sends").length >= AT_ONCE) return;
  const { file, collection, token, stop, row } = entry;
  entry.state = "sends";
  row.text.textContent = "is sent";
  try {
    const onProgress = (share) => { row.bar.value = share; };
    const accepted = await upload(file, { collection }, { token, signal: stop.signal, onProgress });
    entry.state = "done";
    row.bar.value = 1;
    row.text.replaceChildren(h("a", { href: `#/documents/${accepted.id}` }, accepted.duplicate ? "there already" : "accepted"));
    setTimeout(() => forget(entry), SHOWN);
  } catch (error) {
    entry.state = "failed";
    row.box.classList.add("error");
    row.text.textContent = error.message;
    if (error.name !== "AbortError" && !row.box.isConnected) tellAway(entry, error);
  }
  if (!entries.some(isOpen)) view?.onDone();
  next();
}

/** Says in one message what no list shows. */
function tellAway({ file }, error) {
  if (!told?.isConnected) {
    told = notice("", "error");
    failures = 0;
  }
  failures += 1;
  told.firstChild.textContent = failures === 1
    ? `${file.name} was not uploaded: ${error.message}` : `${failures} files were not uploaded; the list under Documents says why.`;
}

function ask(event) {
  event.preventDefault();
}

/** While files are on their way, the browser asks before it closes the page. */
function guard() {
  if (entries.some(isOpen)) window.addEventListener("beforeunload", ask);
  else window.removeEventListener("beforeunload", ask);
}

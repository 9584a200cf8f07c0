// Which view is shown, and who is signed in.

import { session } from "./api.js";
import { fill, h, notice } from "./dom.js";
import { clear } from "./uploads.js";
import { signIn } from "./views/signin.js";

const VIEWS = [
  ["", "Overview", () => import("./views/overview.js")],
  ["documents", "Documents", () => import("./views/documents.js")],
  ["search", "Search", () => import("./views/search.js")],
  ["dead-letters", "Dead letters", () => import("./views/letters.js")],
  ["operations", "Operations", () => import("./views/operate.js")],
  ["tenant", "Tenant", () => import("./views/tenant.js")],
];

/** Between two looks at the session while somebody uses the page. */
const LOOK = 15_000;

const main = document.getElementById("main");
let who = null;
let leaving = new AbortController();

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The parts of the address after `#/`, and what stands behind its question mark. */
function place() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").map(decoded), fields: new URLSearchParams(search) };
}

/** Ends what the view began, and closes what it asks. */
function leaveView() {
  leaving.abort();
  for (const dialog of document.querySelectorAll("dialog")) dialog.dispatchEvent(new Event("cancel"));
  leaving = new AbortController();
  return leaving.signal;
}

async function show() {
  const signal = leaveView();
  if (!who) {
    frame(null);
    signIn(main, async (key) => {
      const mine = await session.begin(key);
      // What an earlier look found out meanwhile does not count.
      forget();
      who = mine;
      await show();
    });
    return;
  }
  const { parts, fields } = place();
  frame(parts[0]);
  const view = VIEWS.find(([name]) => name === parts[0]);
  if (!view) {
    fill(main, h("h1", {}, "There is nothing here"), h("p", {}, h("a", { href: "#/" }, "To the overview")));
    return;
  }
  document.title = `${view[1]} - Riacho`;
  try {
    const module = await view[2]();
    if (!signal.aborted) await module.show(main, { parts: parts.slice(1), fields, signal, who });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    fill(main, h("h1", {}, view[1]), h("p", { class: "notice error" }, error.message),
      h("button", { type: "button", onclick: show }, "Try again"));
  }
}

function frame(current) {
  const nav = document.getElementById("nav");
  const box = document.getElementById("who");
  nav.hidden = box.hidden = !who;
  if (!who) return;
  fill(nav, VIEWS.map(([name, title]) =>
    h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : undefined }, title)));
  fill(box, h("span", { class: "muted" }, who.tenant),
    h("a", { href: "/docs" }, "API"),
    h("button", { type: "button", class: "quiet", onclick: leave }, "Sign out"));
}

async function leave() {
  // What the view asks for would be refused.
  leaveView();
  try {
    await session.end();
  } catch (error) {
    // Where another tab has ended the session already, the page is told so.
    await session.check().catch(() => {});
    if (who) {
      notice(error.message, "error");
      await show();
    }
    return;
  }
  forget();
  await show();
}

/** Nothing of a session is left to the next: no file, and no message. */
function forget() {
  leaveView();
  who = null;
  const lost = clear();
  document.getElementById("notices").replaceChildren();
  if (lost) notice(`${lost} ${lost === 1 ? "file was" : "files were"} not uploaded, since the session has ended.`, "attention");
}

/** The browser has no session any more, or another than the page has shown until now. */
async function changed() {
  const before = who;
  forget();
  try {
    who = await session.look();
  } catch (error) {
    notice(error.message, "error");
  }
  if (before && who) notice(`Another tab has signed in; this one shows the tenant ${who.tenant} from now on.`, "attention");
  else if (before) notice("The session has ended. Sign in again.", "attention");
  await show();
}

document.getElementById("skip").addEventListener("click", () => main.focus());
window.addEventListener("hashchange", show);
window.addEventListener("session-changed", changed);
// Where nothing is watched, nothing says that the session has ended. So the page looks when somebody is there again: asking without anybody
// there would keep the session from ending.
let looked = Date.now();
function present() {
  if (!who || document.visibilityState !== "visible" || Date.now() - looked < LOOK) return;
  looked = Date.now();
  session.check().catch(() => {});
}
for (const name of ["visibilitychange", "pointerdown", "keydown"]) document.addEventListener(name, present);
// A file that misses the box for files is not opened in place of the page.
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  });
}

try {
  who = await session.look();
} catch (error) {
  notice(error.message, "error");
}
await show();

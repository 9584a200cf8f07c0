// Which view is shown, and who is signed in.

import { session } from "./api.js";
import { fill, h, notice } from "./dom.js";
import { signIn } from "./views/signin.js";

const VIEWS = [
  ["", "Overview", () => import("./views/overview.js")],
  ["documents", "Documents", () => import("./views/documents.js")],
  ["search", "Search", () => import("./views/search.js")],
  ["dead-letters", "Dead letters", () => import("./views/letters.js")],
  ["operations", "Operations", () => import("./views/operate.js")],
  ["tenant", "Tenant", () => import("./views/tenant.js")],
];

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

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  if (!who) {
    frame(null);
    signIn(main, async (key) => {
      who = await session.begin(key);
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
  try {
    await session.end();
  } catch (error) {
    notice(error.message, "error");
    return;
  }
  who = null;
  await show();
}

document.getElementById("skip").addEventListener("click", () => main.focus());
window.addEventListener("hashchange", show);
window.addEventListener("signed-out", () => {
  if (!who) return;
  who = null;
  notice("The session has ended. Sign in again.");
  show();
});

try {
  who = await session.look();
} catch (error) {
  notice(error.message, "error");
}
await show();

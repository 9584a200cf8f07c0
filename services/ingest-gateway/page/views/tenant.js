// The tenant: what it uses and may use, its collections, its embedding spaces, its keys and its webhooks.

import { change, get, session } from "../api.js";
import { act, badge, confirmed, fill, h, table } from "../dom.js";
import { count, size, time } from "../format.js";
import { listFailed, showSecret } from "./secret.js";
import { drawWebhooks } from "./webhooks.js";

const SCOPES = ["documents:read", "documents:write", "search", "admin", "operator"];

export async function show(main, { signal, who }) {
  const isAdmin = who.scopes.includes("admin");
  const [usage, { collections }, { spaces }] = await Promise.all([
    get("/api/v1/usage", signal), get("/api/v1/collections", signal), get("/api/v1/spaces", signal)]);
  const keys = h("section", { "aria-label": "Keys" });
  const webhooks = h("section", { "aria-label": "Webhooks" });
  fill(main, h("h1", {}, `Tenant ${who.tenant}`), drawUsage(usage), drawCollections(collections), drawSpaces(spaces), keys, isAdmin && webhooks);
  if (isAdmin) await Promise.all([drawKeys(keys, signal, who), drawWebhooks(webhooks, signal)]);
  else fill(keys, h("h2", {}, "Keys"), h("p", { class: "muted" }, "Keys are shown to keys with the scope admin."));
}

function drawUsage({ documents, bytes, unfinished, over_quota: over, embedding, limits }) {
  const of = (used, most, format) => (most === null ? format(used) : `${format(used)} of ${format(most)}`);
  const rows = [["Documents", of(documents, limits.max_documents, count), "documents"], ["Stored originals", of(bytes, limits.max_bytes, size), "bytes"],
    ["On their way", of(unfinished, limits.max_unfinished, count), "unfinished"],
    [`Embedded tokens in ${embedding.month}`, of(embedding.total.tokens, limits.embedding_tokens_per_month, count), "tokens"],
    [`Cost in ${embedding.month}`, of(embedding.total.money, limits.embedding_cents_per_month === null ? null : limits.embedding_cents_per_month / 100,
      (money) => money.toFixed(2)), "money"],
    ["Requests a minute", limits.requests_per_minute === null ? "not limited" : count(limits.requests_per_minute), ""],
    ["Uploads a minute", limits.uploads_per_minute === null ? "not limited" : count(limits.uploads_per_minute), ""]];
  const spent = [...over, ...embedding.over_budget];
  return h("section", { "aria-label": "Usage" }, h("h2", {}, "Usage and limits"),
    h("dl", { class: "facts" }, rows.map(([name, value, key]) =>
      [h("dt", {}, name), h("dd", {}, value, spent.includes(key) && " ", spent.includes(key) && badge("used up"))])));
}

function drawCollections(collections) {
  return h("section", { "aria-label": "Collections" }, h("h2", {}, "Collections"),
    table("Collections", ["Name", "#Documents", "Made"], collections.map((one) => h("tr", {},
      h("td", {}, h("a", { href: `#/documents?collection=${encodeURIComponent(one.name)}` }, one.name)),
      h("td", { class: "number" }, count(one.documents)), h("td", {}, time(one.created_at))))));
}

function drawSpaces(spaces) {
  return h("section", { "aria-label": "Embedding spaces" }, h("h2", {}, "Embedding spaces"),
    table("Embedding spaces", ["Model", "#Dimensions", "State", "#Documents that lack vectors"], spaces.map((one) => h("tr", {},
      h("td", {}, one.model), h("td", { class: "number" }, one.dimensions), h("td", {}, badge(one.state)),
      h("td", { class: "number" }, count(one.missing_documents))))));
}

async function drawKeys(element, signal, who) {
  const list = h("div", {});
  const again = () => listKeys(list, signal, who);
  await again();
  // A new key stays where it is shown whatever becomes of the list.
  const made = h("div", { "aria-live": "assertive" });
  fill(element, h("h2", {}, "Keys"), newKey(made, again, signal), made, list);
}

async function listKeys(element, signal, who) {
  const { keys } = await get("/api/v1/keys", signal);
  const end = (key) => async () => {
    const own = key.id === who.key_id ? " You are signed in with this one." : "";
    if (!(await confirmed(`End the key ${key.name}?`, `Whoever uses it is refused from then on.${own}`, "End the key"))) return;
    await change("DELETE", `/api/v1/keys/${key.id}`);
    await listKeys(element, signal, who);
  };
  const rows = keys.map((key) => {
    const button = h("button", { type: "button", class: "danger", onclick: () => act(button, end(key)) }, "End");
    const isOver = key.expires_at && Date.parse(key.expires_at) <= Date.now();
    const state = key.revoked_at ? "ended" : isOver ? "expired" : "works";
    return h("tr", {}, h("td", {}, key.name), h("td", {}, h("code", {}, key.id)), h("td", {}, key.scopes.join(", ")),
      h("td", {}, time(key.created_at)), h("td", {}, key.expires_at ? time(key.expires_at) : "never"),
      h("td", {}, badge(state), !key.revoked_at && button));
  });
  fill(element, table("Keys", ["Name", "Public part", "May", "Made", "Ends by itself", ""], rows));
}

function newKey(made, again, signal) {
  const name = h("input", { id: "key-name", required: true, maxlength: 200 });
  const usual = (scope) => scope !== "admin" && scope !== "operator";
  const boxes = SCOPES.map((scope) => h("input", { type: "checkbox", id: `scope-${scope}`, value: scope, checked: usual(scope) }));
  const button = h("button", { class: "primary" }, "Make a key");
  const make = async () => {
    const scopes = boxes.filter((box) => box.checked).map((box) => box.value);
    const { token } = session;
    const created = await change("POST", "/api/v1/keys", { name: name.value, scopes });
    showSecret(made, created.secret, `This is the key ${name.value}. It is shown this once and kept nowhere:`, { signal, token });
    await again().catch(listFailed);
  };
  return h("form", { class: "row panel", onsubmit: (event) => { event.preventDefault(); act(button, make); } },
    h("label", { for: "key-name" }, "Name"), name,
    boxes.map((box) => [box, h("label", { for: box.id }, box.value)]), button);
}

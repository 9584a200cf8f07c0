// Documents: upload, filter, list; and one of them.

import { get, query } from "../api.js";
import { badge, failed, fill, h, table } from "../dom.js";
import { size, time } from "../format.js";
import { poll, trouble } from "../live.js";
import { renew } from "../renew.js";
import { attach, take } from "../uploads.js";
import { showDocument } from "./document.js";

const STATES = ["awaiting_upload", "waiting", "releasing", "extracting", "embedding", "indexing", "ready", "failed", "cancelled", "expired"];
const ENDED = ["ready", "failed", "cancelled", "expired"];
/** How often a page with documents on their way is read again, and one where all have ended. */
const REFRESH = 2000;
const REFRESH_IDLE = 8000;

export async function show(main, context) {
  if (context.parts[0]) {
    await showDocument(main, context.parts[0], context);
    return;
  }
  const { fields, signal } = context;
  const list = h("div", { id: "documents" });
  const go = (changes) => { location.hash = address(fields, changes); };
  const { line, say } = trouble();
  fill(main, h("h1", {}, "Documents"), uploader(signal, () => refresh().catch(failed)), filters(fields, go), line, list);
  let documents = [];
  const refresh = async () => {
    const asked = { state: fields.get("state"), collection: fields.get("collection"), external_id: fields.get("external_id"),
      cursor: fields.get("cursor"), limit: 50 };
    const page = await get(`/api/v1/documents${query(asked)}`, signal);
    if (signal.aborted) return;
    documents = page.documents;
    drawList(list, page, fields);
  };
  await refresh();
  const every = () => (documents.every((one) => ENDED.includes(one.state)) ? REFRESH_IDLE : REFRESH);
  poll(signal, say, every, refresh);
}

/** Where the same is shown with other filters, or on another page. */
const address = (fields, changes) => `#/documents${query({ ...Object.fromEntries(fields), cursor: undefined, ...changes })}`;

function filters(fields, go) {
  const state = h("select", { id: "state", onchange: () => go({ state: state.value }) },
    h("option", { value: "" }, "any"), STATES.map((name) => h("option", { value: name }, name.replaceAll("_", " "))));
  state.value = fields.get("state") ?? "";
  const collection = h("input", { id: "collection-filter", value: fields.get("collection") ?? "" });
  const external = h("input", { id: "external", value: fields.get("external_id") ?? "" });
  return h("form", {
    class: "row filters",
    onsubmit: (event) => {
      event.preventDefault();
      go({ collection: collection.value.trim(), external_id: external.value.trim() });
    },
  },
  h("label", { for: "state" }, "State"), state,
  h("label", { for: "collection-filter" }, "Collection"), collection,
  h("label", { for: "external" }, "External id"), external,
  h("button", {}, "Filter"));
}

function drawList(list, page, fields) {
  const rows = page.documents.map((one) => h("tr", { "data-key": one.id },
    h("td", {}, h("a", { href: `#/documents/${one.id}` }, one.filename || one.id)),
    h("td", {}, badge(one.state), one.error && h("span", { class: "muted" }, ` ${one.error.code}`)),
    h("td", {}, one.collection),
    h("td", { class: "number" }, one.version),
    h("td", { class: "number" }, one.pages ?? "-"),
    h("td", { class: "number" }, one.chunks ?? "-"),
    h("td", { class: "number" }, size(one.size)),
    h("td", {}, time(one.updated_at))));
  const isFiltered = [...fields.keys()].length > 0;
  renew(list, page.documents.length
    ? table("Documents", ["Name", "State", "Collection", "#Version", "#Pages", "#Passages", "#Size", "Changed"], rows)
    : h("p", { class: "notice" }, isFiltered ? "No document is like that." : "No documents yet. Drop some files above."),
  h("div", { class: "row end" },
    fields.get("cursor") && h("a", { href: address(fields, {}) }, "First page"),
    page.next_cursor && h("a", { href: address(fields, { cursor: page.next_cursor }) }, "Next page")));
}

function uploader(signal, onDone) {
  const input = h("input", { type: "file", id: "files", multiple: true, onchange: () => {
    took(input.files);
    input.value = "";
  } });
  const collection = h("input", { id: "collection", placeholder: "default" });
  const list = h("ul", { class: "uploads", "aria-live": "polite" });
  const took = (files) => take(files, collection.value.trim());
  const drop = h("div", { class: "drop" },
    h("p", {}, h("label", { for: "files", class: "link" }, "Choose files"), input, " or drop them here. "),
    h("p", { class: "row" }, h("label", { for: "collection" }, "into the collection"), collection), list);
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    took(event.dataTransfer.files);
  });
  attach(list, signal, onDone);
  return drop;
}

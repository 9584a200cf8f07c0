// A search, and why its hits rank where they do.

import { change, get } from "../api.js";
import { act, fill, h, notice } from "../dom.js";
import { pages } from "../format.js";

export async function show(main, { fields, signal }) {
  const words = h("input", { id: "query", type: "search", value: fields.get("q") ?? "", required: true, autocomplete: "off" });
  const mode = h("select", { id: "mode" }, ["hybrid", "vector", "keyword"].map((name) => h("option", { value: name }, name)));
  mode.value = fields.get("mode") ?? "hybrid";
  const collection = h("select", { id: "in" }, h("option", { value: "" }, "all collections"));
  const filter = h("input", { id: "filter", placeholder: '{"year": {"gte": 2020}}', value: fields.get("filter") ?? "" });
  const button = h("button", { class: "primary" }, "Search");
  const found = h("div", { "aria-live": "polite" });
  const form = h("form", {
    class: "panel",
    onsubmit: (event) => {
      event.preventDefault();
      const next = new URLSearchParams({ q: words.value, mode: mode.value });
      if (collection.value) next.set("in", collection.value);
      if (filter.value.trim()) next.set("filter", filter.value.trim());
      history.replaceState(null, "", `#/search?${next}`);
      act(button, () => search(found, words.value, mode.value, collection.value, filter.value.trim()));
    },
  },
  h("div", { class: "row" }, h("label", { for: "query", class: "hidden" }, "Words or a question"), words, button),
  h("details", { open: fields.has("filter") || fields.has("in") }, h("summary", {}, "How to search"),
    h("div", { class: "row" }, h("label", { for: "mode" }, "Mode"), mode, h("label", { for: "in" }, "In"), collection,
      h("label", { for: "filter" }, "Metadata filter"), filter),
    h("p", { class: "muted" }, "hybrid joins the hits by words (keyword) and by meaning (vector). A filter is a JSON object on the documents' metadata.")));
  fill(main, h("h1", {}, "Search"), form, found);
  words.focus();
  const { collections } = await get("/api/v1/collections", signal);
  collection.append(...collections.map((one) => h("option", { value: one.name }, `${one.name} (${one.documents})`)));
  collection.value = fields.get("in") ?? "";
  if (words.value) form.requestSubmit();
}

async function search(element, query, mode, collection, filter) {
  const body = { query, mode, top_k: 20 };
  if (collection) body.collection = collection;
  if (filter) {
    try {
      body.filter = JSON.parse(filter);
    } catch {
      notice('The filter is no JSON object, such as {"author": "Ana"}.', "error");
      return;
    }
  }
  const answer = await change("POST", "/api/v1/search", body);
  const best = Math.max(...answer.hits.map((hit) => hit.score), 0.001);
  fill(element,
    answer.warnings.map((warning) => h("p", { class: "notice attention" }, warning)),
    h("p", { class: "muted" }, `${answer.hits.length} hits in ${answer.took_ms.toFixed(1)} ms, searched by ${answer.mode}`),
    answer.hits.length === 0 && h("p", { class: "notice" }, "Nothing was found."),
    h("ol", { class: "hits" }, answer.hits.map((hit, place) => drawHit(hit, place, best))));
}

function drawHit(hit, place, best) {
  const parts = hit.score_parts;
  const score = h("span", { class: "length" });
  score.style.width = `${(100 * hit.score) / best}%`;
  const where = [pages(hit.pages), `passage ${hit.ordinal + 1}`, hit.collection].filter(Boolean).join(", ");
  return h("li", {},
    h("p", { class: "row" }, h("a", { href: `#/documents/${hit.document_id}?chunk=${hit.ordinal}` }, hit.filename || hit.document_id),
      h("span", { class: "muted" }, where)),
    hit.heading_path.length > 0 && h("p", { class: "muted" }, hit.heading_path.join(" / ")),
    hit.table_header && h("pre", { class: "prose muted" }, hit.table_header),
    h("pre", { class: "prose" }, marked(hit)),
    h("details", { class: "why" }, h("summary", {}, h("span", { class: "track" }, score), `score ${hit.score.toFixed(4)}`),
      h("p", {}, why(hit, parts, place))));
}

/** The text with the words of the query marked. Places count code points. */
function marked(hit) {
  const points = Array.from(hit.text);
  const pieces = [];
  let at = 0;
  for (const place of [...hit.highlights].sort((one, other) => one.start - other.start)) {
    if (place.start < at) continue;
    pieces.push(points.slice(at, place.start).join(""), h("mark", {}, points.slice(place.start, place.end).join("")));
    at = place.end;
  }
  pieces.push(points.slice(at).join(""));
  return pieces;
}

function why(hit, parts, place) {
  const known = (value) => value !== null && value !== undefined;
  const by = [];
  if (known(parts.keyword_rank)) {
    by.push(`By words it is number ${parts.keyword_rank}${known(parts.keyword_score) ? `, with a keyword score of ${parts.keyword_score.toFixed(3)}` : ""}.`);
  } else by.push("By words it was not among the candidates.");
  if (known(parts.vector_rank)) {
    by.push(`By meaning it is number ${parts.vector_rank}${known(parts.similarity) ? `, with a cosine similarity of ${parts.similarity.toFixed(3)}` : ""}.`);
  } else if (known(parts.similarity)) by.push(`Its cosine similarity to the query is ${parts.similarity.toFixed(3)}.`);
  else by.push("By meaning it was not among the candidates.");
  return `Number ${place + 1}. ${by.join(" ")}`;
}

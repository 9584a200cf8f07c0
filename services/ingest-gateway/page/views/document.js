// One document: where it is, what it went through, and its passages beside the text.

import { change, get, query, watch } from "../api.js";
import { act, badge, confirmed, failed, fill, h, notice } from "../dom.js";
import { count, duration, pages, size, time } from "../format.js";
import { pause, trouble } from "../live.js";
import { renew } from "../renew.js";

/** Code points of text that are shown before and after a passage. */
const AROUND = 1500;
/** Passages of one page. */
const CHUNKS = 50;
/** How often a state is asked for again that cannot be read. */
const AGAIN = 2000;

export async function showDocument(main, id, context) {
  const { signal, fields } = context;
  const base = `/api/v1/documents/${encodeURIComponent(id)}`;
  const head = h("div", {});
  const { line, say } = trouble();
  const status = h("section", { "aria-label": "Status" });
  const reading = h("section", { "aria-label": "Passages and text" });
  fill(main, h("p", {}, h("a", { href: "#/documents" }, "All documents")), line, head, status, reading);
  let shown = null;
  const draw = async (now) => {
    drawStatus(status, now, base, context);
    const wanted = `${now.live_version} ${now.state}`;
    if (shown === wanted) return;
    drawHead(head, await get(base, signal), base);
    if (now.live_version) await drawReading(reading, base, now, fields, context.trouble, signal);
    else fill(reading, h("p", { class: "muted" }, "There is no text to read yet."));
    // Only now: what could not be read is read at the next look.
    shown = wanted;
  };
  const drawDeleted = () => fill(status, h("h2", {}, "Status"), h("p", { class: "row" }, badge("deleted")));
  const follower = follow(base, signal, { say, draw, drawDeleted });
  // What fails since the document has gone says so.
  context.trouble = (error) => (error.code === "not_found" ? follower.ask() : failed(error));
  await follower.begin();
}

/** Watches a document until it ends, and looks again when somebody comes back to it; `say` is told what is wrong. */
function follow(base, signal, { say, draw, drawDeleted }) {
  let last = new Date();
  let stream = null;
  let isAsking = false;
  const stop = () => {
    stream?.abort();
    stream = null;
  };
  const lost = (why) => say(`${why} This is how it was at ${last.toLocaleTimeString()}; trying again.`);
  const deleted = () => {
    stop();
    say("This document was deleted. What is below is how it was.");
    drawDeleted();
  };
  const update = async (now) => {
    last = new Date();
    say("");
    // Nothing more comes by itself, and a stream that is asked for again and again would keep the session from ending.
    if (now.waiting_for === null) stop();
    else if (!stream) watchOn();
    await draw(now);
  };
  /** Reads it once; answers whether there is more to come. */
  const look = async () => {
    let now;
    try {
      now = await get(`${base}/status`, signal);
    } catch (error) {
      if (error.code !== "not_found") throw error;
      deleted();
      return false;
    }
    await update(now);
    return now.waiting_for !== null;
  };
  /** Reads it until it can be read. */
  const ask = async () => {
    if (isAsking) return;
    isAsking = true;
    for (let isRead = false; !isRead && !signal.aborted;) {
      try {
        await look();
        isRead = true;
      } catch (error) {
        if (signal.aborted) break;
        lost(`The state cannot be read: ${error.message}.`);
        await pause(AGAIN, signal);
      }
    }
    isAsking = false;
  };
  const watchOn = () => {
    if (signal.aborted) return;
    stream = new AbortController();
    watch(`${base}/events`, AbortSignal.any([signal, stream.signal]), {
      // What is no status is trouble, or the document is gone.
      onEvent: (name, data) => (name === "status" ? update(data).catch(ask) : ask()),
      onLost: () => lost("The connection to the server is lost."),
      onFound: () => say(""),
      again: look,
    });
  };
  const back = () => {
    if (document.visibilityState === "visible") ask();
  };
  window.addEventListener("focus", back, { signal });
  document.addEventListener("visibilitychange", back, { signal });
  return { begin: async () => update(await get(`${base}/status`, signal)), ask };
}

function drawHead(head, one, base) {
  document.title = `${one.filename} - Riacho`;
  const facts = [["Collection", one.collection], ["Type", one.detected_type ?? one.content_type], ["Size", size(one.size)],
    ["Pages", one.pages], ["Passages", one.chunks], ["Language", one.language], ["Encoding", one.encoding],
    ["External id", one.external_id], ["Accepted", time(one.created_at)], ["Ends", one.expires_at && time(one.expires_at)]];
  const metadata = Object.keys(one.metadata).length > 0;
  fill(head, h("h1", {}, one.filename || one.id),
    h("p", {}, h("a", { href: `${base}/content`, download: true }, "Download the original"), " ", h("span", { class: "muted" }, one.id)),
    h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    metadata && h("details", {}, h("summary", {}, "Metadata"), h("pre", {}, JSON.stringify(one.metadata, null, 2))));
}

function drawStatus(element, now, base, { who, signal }) {
  const may = who.scopes.includes("admin") || who.scopes.includes("documents:write");
  const button = (label, kind, work) => {
    const made = h("button", { type: "button", class: kind, onclick: () => act(made, work) }, label);
    return made;
  };
  const ended = now.waiting_for === null;
  const { progress } = now;
  const remove = async () => {
    const text = `${now.filename} is no longer found from then on; its files, passages and vectors are purged.`;
    if (!(await confirmed("Delete this document?", text, "Delete"))) return;
    await change("DELETE", base);
    notice("Deleted.");
    location.hash = "#/documents";
  };
  renew(element, h("h2", {}, "Status"),
    h("p", { class: "row" }, badge(now.state), h("span", {}, `version ${now.version}`),
      now.live_version && h("span", { class: "muted" }, `searches see version ${now.live_version}`),
      h("span", { class: "muted" }, `lane ${now.lane}`)),
    now.error && h("p", { class: "notice error" }, h("strong", {}, now.error.code), ` ${now.error.message}`),
    now.notice && h("p", { class: "notice attention" }, now.notice),
    now.fallback && h("p", { class: "notice attention" }, now.fallback),
    now.waits && h("p", { class: "notice" }, `It waits: ${now.waits.detail}`),
    bar("Pages read", progress.pages_done, progress.pages_total, ended),
    bar("Passages written", progress.chunks_indexed, progress.chunks_total, ended),
    timeline(now),
    // What is asked before a deletion names the file.
    may && h("p", { class: "row", "data-key": now.filename },
      ["failed", "cancelled", "expired"].includes(now.state) && button("Retry", "primary", () => change("POST", `${base}/retry`)
        .then(() => { if (!signal.aborted) window.dispatchEvent(new Event("hashchange")); })),
      !ended && button("Cancel", "", () => change("POST", `${base}/cancel`)),
      button("Delete", "danger", remove)));
}

function bar(label, done, total, ended) {
  if (!total || (ended && done >= total)) return null;
  return h("p", { class: "row" }, h("span", {}, `${label}: ${count(done)} of ${count(total)}`),
    h("progress", { max: total, value: done, "aria-label": label }));
}

function timeline(now) {
  const seconds = (part) => part.seconds ?? (Date.now() - Date.parse(part.began_at)) / 1000;
  const longest = Math.max(...now.timeline.map(seconds), 0.001);
  return h("ol", { class: "timeline" }, now.timeline.map((part) => {
    const length = h("span", { class: "length" });
    length.style.width = `${Math.max(1, (100 * seconds(part)) / longest)}%`;
    return h("li", {}, h("span", {}, part.state), h("span", { class: "track" }, length),
      h("span", { class: "number" }, part.seconds === null ? "now" : duration(part.seconds)),
      h("span", { class: "muted" }, time(part.began_at)));
  }), now.finished_at && h("li", {}, h("span", {}, now.state), h("span", {}), h("span", {}),
    h("span", { class: "muted" }, time(now.finished_at))));
}

async function drawReading(element, base, now, fields, trouble, signal) {
  const text = h("div", { class: "text", tabindex: "0", "aria-label": "Text" }, h("p", { class: "muted" }, "Choose a passage."));
  const list = h("ol", { class: "chunks" });
  const more = h("div", {});
  fill(element, h("h2", {}, "Passages and text"),
    h("div", { class: "reading" }, h("div", {}, list, more), text));
  const choose = async (chunk, button) => {
    for (const other of list.querySelectorAll("[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    await drawText(text, base, now.live_version, chunk, signal);
  };
  const wanted = Number(fields.get("chunk") ?? -1);
  const load = async (cursor) => {
    const page = await get(`${base}/chunks${query({ limit: CHUNKS, cursor })}`, signal);
    for (const chunk of page.chunks) {
      const button = h("button", { type: "button", class: "chunk", "aria-pressed": "false",
        onclick: () => choose(chunk, button).catch(trouble) },
      h("span", { class: "muted" }, `${chunk.ordinal + 1}. ${[pages(chunk.pages), `${chunk.token_count} tokens`].filter(Boolean).join(", ")}`),
      chunk.heading_path.length > 0 && h("strong", {}, chunk.heading_path.join(" / ")),
      h("span", { class: "excerpt" }, chunk.text.slice(0, 160)));
      list.append(h("li", {}, button));
      if (chunk.ordinal === wanted) {
        await choose(chunk, button);
        button.scrollIntoView({ block: "nearest" });
      }
    }
    const button = h("button", { type: "button", onclick: () => act(button, () => load(page.next_cursor)) }, "More passages");
    fill(more, page.next_cursor && button);
    const last = page.chunks[page.chunks.length - 1];
    if (page.next_cursor && last && last.ordinal < wanted) await load(page.next_cursor);
  };
  await load();
}

async function drawText(element, base, version, chunk, signal) {
  const offset = Math.max(0, chunk.char_start - AROUND);
  const before = chunk.char_start - offset;
  const length = chunk.char_end - chunk.char_start;
  const path = `${base}/text${query({ version, offset, limit: before + length + AROUND })}`;
  const part = await get(path, signal);
  // Offsets count code points, a string's index counts UTF-16 units.
  const points = Array.from(part.text);
  const slice = (from, to) => points.slice(from, to).join("");
  const mark = h("mark", {}, slice(before, before + length));
  fill(element, h("p", { class: "muted" },
    [pages(chunk.pages), `characters ${count(chunk.char_start)} to ${count(chunk.char_end)} of ${count(part.total)}`].filter(Boolean).join(", ")),
  h("pre", { class: "prose" }, offset > 0 && "... ", slice(0, before), mark, slice(before + length),
    offset + part.length < part.total && " ..."));
  element.scrollTop = Math.max(0, mark.offsetTop - 60);
}

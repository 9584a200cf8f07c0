// Dead letters: why, what was in them, and replaying or discarding them.

import { change, get, query, session } from "../api.js";
import { act, badge, confirmed, fill, h, notice, table } from "../dom.js";
import { count, size, time } from "../format.js";

export async function show(main, { fields, signal, who }) {
  const may = who.scopes.includes("admin") || who.scopes.includes("documents:write");
  const asked = { stage: fields.get("stage"), reason_code: fields.get("reason"), state: fields.get("state"), cursor: fields.get("cursor"), limit: 50 };
  const page = await get(`/api/v1/queue/dead-letters${query(asked)}`, signal);
  const go = (changes) => {
    const next = query({ ...Object.fromEntries(fields), cursor: undefined, ...changes });
    if (location.hash === `#/dead-letters${next}`) window.dispatchEvent(new Event("hashchange"));
    else location.hash = `#/dead-letters${next}`;
  };
  const chosen = new Set();
  const is_open = !asked.state || asked.state === "unresolved";
  const result = h("div", { "aria-live": "polite" });
  fill(main, h("h1", {}, "Dead letters"),
    h("p", { class: "muted" }, "Events that a stage gave up, with the reason. A replay releases the document's version again; the old event itself is not put back."),
    filters(fields, go),
    may && is_open && page.dead_letters.length > 0 && actions(chosen, fields, result, signal, () => go({})),
    result,
    page.dead_letters.length
      ? table("Dead letters", ["", "Reason", "Stage", "Document", "#Attempts", "Given up", ""], page.dead_letters.map((letter) => row(letter, chosen, is_open && may)))
      : h("p", { class: "notice" }, is_open ? "There are none." : "There are none like that."),
    h("div", { class: "row end" }, page.next_cursor && h("button", { type: "button", onclick: () => go({ cursor: page.next_cursor }) }, "Next page")));
}

function filters(fields, go) {
  const select = (id, value, options, name) => {
    const made = h("select", { id, onchange: () => go({ [name]: made.value }) }, options.map(([key, text]) => h("option", { value: key }, text)));
    made.value = value ?? "";
    return made;
  };
  const reason = h("input", { id: "reason", value: fields.get("reason") ?? "" });
  return h("form", { class: "row filters", onsubmit: (event) => { event.preventDefault(); go({ reason: reason.value.trim() }); } },
    h("label", { for: "stage" }, "Stage"),
    select("stage", fields.get("stage"), [["", "any"], ["extract", "extract"], ["embed", "embed"], ["index", "index"], ["intake", "intake"]], "stage"),
    h("label", { for: "letter-state" }, "State"),
    select("letter-state", fields.get("state"), [["", "unresolved"], ["replayed", "replayed"], ["discarded", "discarded"]], "state"),
    h("label", { for: "reason" }, "Reason code"), reason, h("button", {}, "Filter"));
}

function row(letter, chosen, may) {
  const box = h("input", { type: "checkbox", "aria-label": `Choose ${letter.reason_code} of ${letter.stage}`,
    onchange: () => (box.checked ? chosen.add(letter.id) : chosen.delete(letter.id)) });
  const details = h("td", { colspan: 7, hidden: true });
  const open = h("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: () => act(open, async () => {
    details.hidden = !details.hidden;
    open.setAttribute("aria-expanded", String(!details.hidden));
    if (!details.hidden && !details.firstChild) drawDetails(details, await get(`/api/v1/queue/dead-letters/${letter.id}`));
  }) }, "Look inside");
  return [h("tr", { "data-letter": letter.id },
    h("td", {}, may && box),
    h("td", {}, h("strong", {}, letter.reason_code), h("br"), h("span", { class: "muted" }, letter.message)),
    h("td", {}, letter.stage),
    h("td", {}, letter.document_id ? h("a", { href: `#/documents/${letter.document_id}` }, `${letter.document_id.slice(-12)} v${letter.version ?? "?"}`) : "-"),
    h("td", { class: "number" }, letter.attempts),
    h("td", {}, time(letter.occurred_at), letter.state !== "unresolved" && badge(letter.state)),
    h("td", {}, open)), h("tr", {}, details)];
}

function drawDetails(element, letter) {
  const { envelope } = letter;
  const facts = [["Stream", letter.stream], ["Entry", letter.entry_id], ["Trace", letter.trace_id || "-"], ["Release", letter.release_id ?? "-"],
    ["Entry's size", size(letter.original_bytes)]];
  if (envelope) {
    facts.push(["Event", `${envelope.type} (${envelope.id})`], ["From", envelope.source], ["Lane", envelope.lane],
      ["Payload", envelope.payload ? `${envelope.payload.type}, ${size(envelope.payload.bytes)}, ${size(envelope.payload.uncompressed_bytes)} inflated` : "none"]);
  }
  fill(element, h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    !envelope && h("p", { class: "notice attention" }, "The entry is no envelope; these are its bytes."),
    h("details", {}, h("summary", {}, "The entry as it was read, in base64"), h("pre", { class: "prose" }, letter.original_base64)));
}

function actions(chosen, fields, result, signal, done) {
  const rateOf = h("input", { id: "rate", type: "number", min: "0.1", max: "1000", step: "0.1", value: "10" });
  const filter = () => Object.fromEntries(Object.entries({ stage: fields.get("stage"), reason_code: fields.get("reason") }).filter(([, value]) => value));
  let isRunning = false;
  let isStopped = false;
  const stop = h("button", { type: "button", hidden: true, onclick: () => { isStopped = true; stop.disabled = true; } }, "Stop");
  /** Asks in rounds, as long as somebody sees it; answers what was done in all of them, or nothing where the view was left. */
  const rounds = async (what, request) => {
    const total = { letters: 0, versions: 0, skipped: [], isStopped: false };
    for (;;) {
      const answer = await change("POST", `/api/v1/queue/dead-letters/${what}`, request);
      total.letters += answer.replayed ?? answer.discarded;
      total.versions += answer.versions?.length ?? 0;
      total.skipped.push(...answer.skipped);
      request.cursor = answer.next_cursor;
      total.isStopped = Boolean(answer.next_cursor) && (isStopped || signal.aborted);
      tell(result, what, total, request.dry_run, answer.remaining);
      if (!answer.next_cursor || total.isStopped) return total;
    }
  };
  const run = async (what, selection, dry) => {
    if (selection.ids?.length === 0) {
      notice("Choose dead letters first.");
      return null;
    }
    if (isRunning) {
      notice("Something is under way; wait for its end, or stop it.");
      return null;
    }
    const { token } = session;
    const request = { ...selection, dry_run: dry };
    if (what === "replay") request.per_second = Number(rateOf.value);
    isStopped = stop.disabled = false;
    stop.hidden = dry;
    isRunning = true;
    let total;
    try {
      total = await rounds(what, request);
    } finally {
      stop.hidden = true;
      isRunning = false;
    }
    // Another who has signed in meanwhile is told nothing about it.
    if (!dry && session.token === token) {
      sum(what, total);
      // The table is read anew, unless another view is shown by now.
      if (!signal.aborted) done();
    }
    return total;
  };
  const replayAll = async () => {
    const would = await run("replay", { filter: filter() }, true);
    if (!would || signal.aborted) return;
    if (would.letters === 0) {
      notice("There is nothing to replay.");
      return;
    }
    const text = `${count(would.letters)} dead letters of ${count(would.versions)} versions are replayed, ${rateOf.value} a second.`;
    if (await confirmed("Replay all of these?", text, "Replay all")) await run("replay", { filter: filter() }, false);
  };
  const discard = async () => {
    const sure = await confirmed("Discard the chosen dead letters?", "Nothing more is done about them. Their documents stay as they are.", "Discard");
    if (sure) await run("discard", { ids: [...chosen] }, false);
  };
  const button = (label, kind, work) => {
    const made = h("button", { type: "button", class: kind, onclick: () => act(made, work) }, label);
    return made;
  };
  return h("div", { class: "row panel" },
    button("Try a replay of all", "", () => run("replay", { filter: filter() }, true)),
    button("Replay chosen", "primary", () => run("replay", { ids: [...chosen] }, false)),
    button("Replay all", "", replayAll),
    h("label", { for: "rate" }, "a second"), rateOf,
    button("Discard chosen", "danger", discard), stop);
}

/** Says in a message, which outlives the view, what was done. */
function sum(what, { letters, skipped, isStopped }) {
  const left = [...new Set(skipped.map((one) => one.detail))];
  const parts = [`${count(letters)} ${what === "replay" ? "replayed" : "discarded"}`, isStopped && "then stopped, the others wait",
    left.length > 0 && `left alone: ${left.join("; ")}`];
  notice(`${parts.filter(Boolean).join("; ")}.`, left.length ? "error" : isStopped ? "attention" : "info");
}

function tell(element, what, total, dry, remaining) {
  const done = what === "replay" ? `${count(total.letters)} dead letters of ${count(total.versions)} versions` : `${count(total.letters)} dead letters`;
  const verb = what === "replay" ? "replayed" : "discarded";
  fill(element, h("p", { class: "notice" }, dry ? `${done} would be ${verb}.` : `${done} ${verb}.`,
    remaining > 0 && ` ${count(remaining)} remain.`, total.skipped.length > 0 && ` ${count(total.skipped.length)} were left alone:`),
  total.skipped.length > 0 && h("ul", {}, total.skipped.slice(0, 20).map((one) => h("li", {}, one.detail))));
}

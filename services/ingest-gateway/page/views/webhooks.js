// Webhooks of the tenant: addresses that are told what becomes of documents.

import { change, get, session } from "../api.js";
import { act, badge, confirmed, fill, h, table } from "../dom.js";
import { time } from "../format.js";
import { listFailed, showSecret } from "./secret.js";

const EVENTS = ["document.ready", "document.failed", "document.deleted", "summary"];

export async function drawWebhooks(element, signal) {
  const list = h("div", {});
  const again = () => listWebhooks(list, signal);
  await again();
  const made = h("div", { "aria-live": "assertive" });
  fill(element, h("h2", {}, "Webhooks"), newWebhook(made, again, signal), made, list);
}

async function listWebhooks(element, signal) {
  const { webhooks } = await get("/api/v1/webhooks", signal);
  const again = () => listWebhooks(element, signal);
  fill(element, webhooks.length === 0 ? h("p", { class: "muted" }, "Nobody is told anything yet.") : table("Webhooks",
    ["Address", "Is told", "State", "Made", ""], webhooks.map((one) => row(one, again))));
}

function row(one, again) {
  const base = `/api/v1/webhooks/${one.id}`;
  const deliveries = h("td", { colspan: 5, hidden: true });
  const button = (label, kind, work) => {
    const made = h("button", { type: "button", class: kind, onclick: () => act(made, work) }, label);
    return made;
  };
  const remove = async () => {
    if (!(await confirmed("Remove this webhook?", `${one.url} is told nothing more.`, "Remove"))) return;
    await change("DELETE", base);
    await again();
  };
  const look = async () => {
    deliveries.hidden = !deliveries.hidden;
    if (!deliveries.hidden) await drawDeliveries(deliveries, base);
  };
  const state = one.disabled_at ? "disabled" : one.failing_since ? "failing" : "works";
  return [h("tr", {}, h("td", {}, one.url, one.description && [h("br"), h("span", { class: "muted" }, one.description)]),
    h("td", {}, one.events.join(", ")),
    h("td", {}, badge(state), one.disabled_reason && h("span", { class: "muted" }, one.disabled_reason)), h("td", {}, time(one.created_at)),
    h("td", {}, button("Deliveries", "quiet", look),
      one.disabled_at && button("Enable", "", () => change("POST", `${base}/enable`).then(again)), button("Remove", "danger", remove))),
  h("tr", {}, deliveries)];
}

async function drawDeliveries(element, base) {
  const { deliveries } = await get(`${base}/deliveries`);
  const again = (one) => {
    const made = h("button", { type: "button", class: "quiet", onclick: () => act(made, async () => {
      await change("POST", `${base}/deliveries/${one.id}/redeliver`);
      await drawDeliveries(element, base);
    }) }, "Send again");
    return made;
  };
  fill(element, deliveries.length === 0 ? h("p", { class: "muted" }, "Nothing was told yet.") : table("Deliveries",
    ["Event", "State", "#Attempts", "Answer", "Happened", "Next", ""], deliveries.map((one) => h("tr", {},
      h("td", {}, one.event), h("td", {}, badge(one.state)), h("td", { class: "number" }, one.attempts),
      h("td", {}, one.last_status ?? one.last_error ?? "-"), h("td", {}, time(one.created_at)), h("td", {}, time(one.next_attempt)),
      h("td", {}, again(one))))));
}

function newWebhook(made, again, signal) {
  const url = h("input", { id: "webhook-url", type: "url", required: true, placeholder: "https address" });
  const boxes = EVENTS.map((name) => h("input", { type: "checkbox", id: `event-${name}`, value: name, checked: name !== "summary" }));
  const make = h("button", { class: "primary" }, "Make a webhook");
  const work = async () => {
    const events = boxes.filter((box) => box.checked).map((box) => box.value);
    const { token } = session;
    const created = await change("POST", "/api/v1/webhooks", { url: url.value, events });
    showSecret(made, created.secret, `What is sent to ${url.value} is signed with this secret. It is shown this once:`, { signal, token });
    await again().catch(listFailed);
  };
  return h("form", { class: "row panel", onsubmit: (event) => { event.preventDefault(); act(make, work); } },
    h("label", { for: "webhook-url" }, "Address"), url, boxes.map((box) => [box, h("label", { for: box.id }, box.value)]), make);
}

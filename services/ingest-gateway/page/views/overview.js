// The pipeline as a flow, live.

import { get, session, watch } from "../api.js";
import { line } from "../chart.js";
import { badge, fill, h } from "../dom.js";
import { count, duration, rate, time } from "../format.js";
import { renew } from "../renew.js";

const DOES = {
  extract: "takes the text out of files and cuts it into passages",
  embed: "turns passages into vectors",
  index: "writes passages and vectors, and makes the version searchable",
};
const HOUR = 3600e3;
/** How often the lines are drawn anew. */
const REDRAW = 10e3;

export async function show(main, { signal }) {
  const state = h("p", { class: "notice", role: "status" }, "Connecting.");
  const flow = h("ol", { class: "flow" });
  const documents = h("section", { "aria-label": "Documents by state" });
  fill(main, h("h1", {}, "Overview"),
    h("p", { class: "muted" },
      "A document is accepted at once and then passes the stages from left to right. What waits in a stage, of all tenants, is its backlog; it grows when a stage has too few consumers."),
    state, flow, documents);
  const charts = new Map();
  const redraw = async () => {
    try {
      drawLines(charts, await get("/api/v1/queue/history", signal));
    } catch {
      // The figures above say what is wrong; the lines stay as they were.
    }
  };
  // The figures stay as they were while none come, so it is said from when they are.
  let last = null;
  const lost = (text) => tell(state, "unhealthy", last ? `${text} The figures are those of ${last.toLocaleTimeString()}.` : text);
  const onEvent = (name, data) => {
    if (name === "problem") {
      lost(`No figures at the moment: ${data}.`);
      return;
    }
    const isFirst = last === null;
    last = new Date();
    draw(flow, documents, data, charts);
    if (isFirst) redraw();
    tell(state, ...health(data));
  };
  watch("/api/v1/queue/events", signal, {
    onEvent,
    onLost: () => lost("The connection to the server is lost; trying again."),
    onFound: () => {},
    again: () => session.check().then(() => true),
  });
  const timer = setInterval(redraw, REDRAW);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function tell(element, kind, text) {
  if (element.textContent === text) return;
  element.className = `notice ${kind}`;
  element.textContent = text;
}

/** What is not as it should be, in words. */
function health(data) {
  const paused = data.stages.filter((stage) => stage.paused);
  if (paused.length) {
    const each = paused.map(({ stage, paused: { by, since, reason } }) => `${stage} is paused since ${time(since)} by ${by}${reason && `: ${reason}`}`);
    return ["degraded", `Degraded: ${each.join("; ")}. What waits for it stays; resume it under Operations.`];
  }
  const idle = data.stages.filter((stage) => stage.backlog > 0 && stage.consumers === 0);
  if (idle.length) {
    const names = idle.map((stage) => stage.stage).join(" and ");
    return ["degraded", `Degraded: ${names} has work, and no consumer is alive. Start one, or look at its log.`];
  }
  const failed = Object.values(data.unresolved).reduce((sum, letters) => sum + letters, 0);
  const waiting = data.stages.reduce((sum, stage) => sum + stage.backlog, 0);
  const work = waiting ? `${count(waiting)} events are on their way.` : "Nothing is waiting.";
  if (failed) return ["attention", `Healthy. ${work} ${count(failed)} of your dead letters wait for somebody to look at them.`];
  return ["healthy", `Healthy. ${work}`];
}

function draw(flow, documents, data, charts) {
  const states = data.documents;
  const before = (states.awaiting_upload ?? 0) + (states.waiting ?? 0) + (states.releasing ?? 0);
  if (!charts.size) {
    fill(flow, end("Accepted", "waits"), data.stages.map((stage) => {
      const card = stageCard(stage);
      charts.set(stage.stage, card);
      return card.box;
    }), end("Ready", "ready"));
  }
  flow.querySelector("[data-figure=waits]").textContent = count(before);
  flow.querySelector("[data-figure=ready]").textContent = count(states.ready ?? 0);
  for (const stage of data.stages) update(charts.get(stage.stage), stage, data.unresolved[stage.stage] ?? 0);
  const shown = Object.entries(states).filter(([, number]) => number > 0);
  renew(documents, h("h2", {}, "Your documents"),
    shown.length === 0 && h("p", { class: "muted" }, "None yet. ", h("a", { href: "#/documents" }, "Upload the first one.")),
    h("ul", { class: "states" }, shown.map(([name, number]) =>
      h("li", { "data-key": name, "data-state": name }, h("a", { href: `#/documents?state=${name}` }, badge(name), h("strong", {}, count(number)))))));
}

function end(title, figure) {
  const text = figure === "waits" ? "your documents that wait for their turn" : "your documents whose latest version is ready";
  return h("li", { class: "end" }, h("h2", {}, title),
    h("p", { class: "big", "data-figure": figure }, "0"), h("p", { class: "muted" }, text));
}

function stageCard(stage) {
  const figures = {};
  const row = (name, title) => {
    figures[name] = h("dd", { "data-figure": name }, "-");
    return [h("dt", {}, title), figures[name]];
  };
  figures.backlog = h("p", { class: "big", "data-figure": "backlog" }, "0");
  const lines = h("div", { class: "lines" });
  const box = h("li", { class: "stage", "data-stage": stage.stage },
    h("h2", {}, stage.stage), figures.backlog, h("p", { class: "muted" }, "backlog"),
    h("dl", {}, row("rate_per_second", "rate"), row("oldest_age_seconds", "oldest"), row("consumers", "consumers"),
      row("pending", "in work"), row("retrying", "retrying"), row("failures", "your failures")),
    lines, h("p", { class: "muted" }, DOES[stage.stage] ?? ""));
  return { box, figures, lines };
}

function update({ box, figures }, stage, failures) {
  figures.backlog.textContent = count(stage.backlog);
  figures.rate_per_second.textContent = rate(stage.rate_per_second);
  figures.oldest_age_seconds.textContent = stage.backlog ? duration(stage.oldest_age_seconds) : "-";
  figures.consumers.textContent = count(stage.consumers);
  figures.pending.textContent = count(stage.pending);
  figures.retrying.textContent = count(stage.retrying);
  renew(figures.failures, failures
    ? h("a", { href: `#/dead-letters?stage=${stage.stage}` }, count(failures)) : "0");
  const isStuck = stage.paused !== null || (stage.backlog > 0 && stage.consumers === 0);
  box.classList.toggle("stuck", isStuck);
  box.classList.toggle("busy", stage.backlog > 0 && !isStuck);
}

function drawLines(charts, history) {
  if (!history.every_seconds) return;
  const to = Date.now();
  const points = (stage, figure) => history.samples.map((sample) =>
    [Date.parse(sample.at), sample.stages[stage]?.[figure] ?? null]);
  for (const [stage, { lines }] of charts) {
    const draw = (label, figure, describe) =>
      line(label, points(stage, figure), to - HOUR, to, history.every_seconds * 1000, describe);
    fill(lines, draw("backlog", "backlog", count), draw("rate", "rate_per_second", rate));
  }
}

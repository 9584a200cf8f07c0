// What operators do: pause stages, run the janitor's tasks, see who did what.

import { change, get, query } from "../api.js";
import { act, badge, fill, h, notice, table } from "../dom.js";
import { count, duration, time } from "../format.js";
import { pause, poll, trouble } from "../live.js";
import { renew } from "../renew.js";

const STAGES = ["extract", "embed", "index"];
/** How often what is shown is read again. */
const REFRESH = 3000;
/** Between two looks at a run that was asked for: at first, and at most. */
const LOOK = 500;
const LOOK_AT_MOST = 5000;
/** A janitor that leads takes a run within a second; after so long it is said that none has. */
const TAKEN = 5000;

export async function show(main, { fields, signal, who }) {
  const isOperator = who.scopes.includes("operator");
  const { line, say } = trouble();
  const stages = h("section", { "aria-label": "Stages" });
  const tasks = h("section", { "aria-label": "Janitor" });
  const audit = h("section", { "aria-label": "Audit" });
  fill(main, h("h1", {}, "Operations"),
    !isOperator && h("p", { class: "notice" }, "Pausing stages and running tasks needs a key with the scope operator, which riacho key create makes."),
    line, stages, isOperator && tasks, who.scopes.includes("admin") && audit);
  const refresh = async () => {
    const all = await Promise.all(STAGES.map((stage) => get(`/api/v1/queue/stages/${stage}`, signal)));
    if (!signal.aborted) drawStages(stages, all, isOperator, refresh);
    if (!isOperator) return;
    const listed = await get("/api/v1/janitor/tasks", signal);
    if (!signal.aborted) drawTasks(tasks, listed.tasks, refresh, signal);
  };
  await refresh();
  if (who.scopes.includes("admin")) drawAudit(audit, await get(`/api/v1/audit${query({ limit: 50, cursor: fields.get("cursor") })}`, signal));
  poll(signal, say, () => REFRESH, refresh);
}

function button(label, kind, work) {
  const made = h("button", { type: "button", class: kind, onclick: () => act(made, work) }, label);
  return made;
}

function drawStages(element, stages, isOperator, refresh) {
  renew(element, h("h2", {}, "Stages"), stages.map((stage) => {
    const reason = h("input", { placeholder: "why", "aria-label": `Why ${stage.stage} is paused`, maxlength: 500 });
    const pause = async () => {
      await change("POST", `/api/v1/queue/stages/${stage.stage}/pause`, { reason: reason.value.trim() || "from the page" });
      await refresh();
    };
    const resume = async () => {
      await change("POST", `/api/v1/queue/stages/${stage.stage}/resume`);
      await refresh();
    };
    return h("article", { class: "panel", "data-stage": stage.stage, "data-key": stage.stage },
      h("p", { class: "row" }, h("strong", {}, stage.stage), badge(stage.paused ? "paused" : "reads"),
        `backlog ${count(stage.backlog)}, in work ${count(stage.pending)}, consumers ${count(stage.consumers)}`,
        isOperator && (stage.paused ? button("Resume", "primary", resume) : [reason, button("Pause", "", pause)])),
      stage.paused && h("p", { class: "muted" }, `Paused since ${time(stage.paused.since)} by ${stage.paused.by}: ${stage.paused.reason}`),
      h("details", {}, h("summary", {}, "Lanes and consumers"), drawLanes(stage.lanes), drawConsumers(stage.consumer_list)));
  }));
}

function drawLanes(lanes) {
  return table("Lanes", ["Lane", "#Partition", "#Backlog", "#In work", "#Retrying", "#Oldest"], lanes.map((lane) => h("tr", {},
    h("td", {}, lane.lane), h("td", { class: "number" }, lane.partition), h("td", { class: "number" }, count(lane.backlog)),
    h("td", { class: "number" }, count(lane.pending)), h("td", { class: "number" }, count(lane.retrying)),
    h("td", { class: "number" }, lane.backlog ? duration(lane.oldest_age_seconds) : "-"))));
}

function drawConsumers(consumers) {
  if (!consumers) return null;
  return table("Consumers", ["Consumer", "State", "#Holds", "#Asked last"], consumers.map((one) => h("tr", {},
    h("td", {}, one.name), h("td", {}, badge(one.state)), h("td", { class: "number" }, count(one.pending)),
    h("td", { class: "number" }, `${duration(one.idle_seconds)} ago`))));
}

/** Runs a task and tells what came of it, as long as the view is shown. */
async function runTask(task, dry, refresh, signal) {
  let asked = await change("POST", `/api/v1/janitor/tasks/${task}/run`, { dry_run: dry });
  let isSaid = false;
  for (let wait = LOOK; ["queued", "running"].includes(asked.state); wait = Math.min(1.5 * wait, LOOK_AT_MOST)) {
    if (asked.state === "queued" && !isSaid && Date.now() - Date.parse(asked.requested_at) > TAKEN) {
      isSaid = true;
      notice(`${task}: no janitor has taken it up yet. It waits for one for ten minutes.`, "attention");
    }
    await pause(wait, signal);
    if (signal.aborted) return;
    try {
      asked = await get(`/api/v1/janitor/runs/${asked.id}`, signal);
    } catch (error) {
      // Too many requests, or a server that is away for a moment, say nothing about the run.
      if (![0, 429, 502, 503, 504].includes(error.status)) throw error;
    }
  }
  if (signal.aborted) return;
  notice(`${task}${dry ? ", tried" : ""}: ${asked.state}. ${told(asked.summary)}`, asked.state === "ok" ? "info" : "error");
  await refresh();
}

function drawTasks(element, tasks, refresh, signal) {
  const run = (task, dry) => () => runTask(task, dry, refresh, signal);
  renew(element, h("h2", {}, "The janitor's tasks"),
    tasks.length === 0 ? h("p", { class: "muted" }, "No janitor has led yet.") : table("Tasks",
      ["Task", "Schedule", "Next", "Last", "#Took", "What it did last", ""], tasks.map((task) => h("tr", { "data-task": task.name, "data-key": task.name },
        h("td", {}, h("strong", {}, task.name), h("br"), h("span", { class: "muted" }, task.describes)),
        h("td", {}, h("code", {}, task.schedule ?? "by hand")), h("td", {}, time(task.next_run)),
        h("td", {}, time(task.last_finished), task.last_outcome && [" ", badge(task.last_outcome)],
          task.failures > 0 && h("span", { class: "muted" }, ` ${count(task.failures)} of ${count(task.runs)} failed`)),
        h("td", { class: "number" }, duration(task.last_seconds)), h("td", {}, told(task.last_work_summary ?? task.last_summary)),
        h("td", {}, button("Try", "quiet", run(task.name, true)), button("Run", "quiet", run(task.name, false)))))));
}

/** A summary in a line. */
function told(summary) {
  if (summary === null || summary === undefined) return "-";
  if (typeof summary !== "object") return String(summary);
  const parts = Object.entries(summary).filter(([, value]) => value !== 0 && value !== null && value !== false);
  return parts.length ? parts.map(([name, value]) =>
    `${name.replaceAll("_", " ")}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ") : "nothing to do";
}

function drawAudit(element, page) {
  fill(element, h("h2", {}, "Who did what"), page.acts.length === 0 ? h("p", { class: "muted" }, "Nothing yet.") : table("Audit",
    ["When", "Who", "What", "To what", "Outcome", "Detail"], page.acts.map((one) => h("tr", {},
      h("td", {}, time(one.at)), h("td", {}, one.actor), h("td", {}, one.action), h("td", {}, one.target),
      h("td", {}, badge(one.outcome)), h("td", {}, told(one.detail))))),
  page.next_cursor && h("p", { class: "row end" }, h("a", { href: `#/operations?cursor=${encodeURIComponent(page.next_cursor)}` }, "Older")));
}

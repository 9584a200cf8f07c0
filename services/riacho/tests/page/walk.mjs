// Walks through the page in a browser, as somebody would who sees it for the first time. Run by tests/page.rs:
//
//     node walk.mjs PLAYWRIGHT BROWSER URL KEY SAMPLES SCREENSHOTS
//
// Ends with 0 where all was as it should be, and else tells what was not. A wait is for a condition, up to PATIENCE. A line
// `ask: ..` asks the test for something, which answers with a line.

import assert from "node:assert/strict";
import path from "node:path";
import readline from "node:readline";
import { client, launch, listen, PATIENCE, until, walk } from "./browser.mjs";

const [playwright, browserPath, url, key, samples, screenshots] = process.argv.slice(2);

const browser = await launch(playwright, browserPath);
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE);
const heard = listen(page, url);
const api = client(url, key);

const nav = (name) => page.getByRole("navigation").getByRole("link", { name });

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(what) {
  console.log(`ask: ${what}`);
  await answers.next();
}

async function go(view) {
  await page.goto(`${url}/#/${view}`);
}

/** Both colour schemes and a phone, of what is shown. */
async function picture(name) {
  for (const [suffix, colorScheme, width] of [["light", "light", 1280], ["dark", "dark", 1280], ["phone", "light", 390]]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.screenshot({ path: path.join(screenshots, `${name}-${suffix}.png`), fullPage: true });
    if (width === 390) {
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 0, `${name} is ${over} pixels wider than a phone`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function signsIn() {
  await page.goto(url);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await picture("sign-in");
  heard.expected = ["401"];
  await page.getByLabel("API key").fill("rk_0123456789abcdef_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("the key is not known").waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await page.getByLabel("API key").fill(key);
  await page.getByLabel("API key").press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  heard.expected = [];
  const cookies = await context.cookies();
  assert.ok(cookies.every((cookie) => cookie.httpOnly && cookie.sameSite === "Strict"), "the cookie is out of reach");
  assert.equal(await page.evaluate(() => document.cookie), "");
}

async function uploads() {
  await nav("Documents").click();
  await page.getByText("No documents yet").waitFor();
  await page.locator("#files").setInputFiles(["station-handbook.pdf", "calibration-notes.md"].map((name) => path.join(samples, name)));
  const row = (name) => page.locator("#documents tr", { hasText: name });
  await row("station-handbook.pdf").locator(".badge.ready").waitFor();
  await row("calibration-notes.md").locator(".badge.ready").waitFor();
  await picture("documents");
  await page.getByLabel("State").selectOption("failed");
  await page.getByText("No document is like that").waitFor();
  await page.getByLabel("State").selectOption("");
  await row("station-handbook.pdf").getByRole("link").click();
  await page.getByRole("heading", { name: "station-handbook.pdf" }).waitFor();
  for (const state of ["waiting", "extracting", "embedding", "ready"]) {
    await page.locator(".timeline li", { hasText: state }).first().waitFor();
  }
}

async function searches() {
  await nav("Search").click();
  const { hits } = await api("POST", "/api/v1/search", { query: "heron", mode: "hybrid", top_k: 20 });
  await page.getByLabel("Words or a question").fill("heron");
  await page.getByRole("button", { name: "Search" }).click();
  await page.locator(".hits > li").first().waitFor();
  assert.equal(await page.locator(".hits > li").count(), hits.length);
  await page.locator(".why summary").first().click();
  await page.getByText("Number 1.").waitFor();
  await picture("search");
  // The cited page: the passage is marked in the text, and it is the hit's.
  const cited = hits.find((hit) => hit.filename === "station-handbook.pdf");
  assert.ok(cited && cited.pages.length, "the handbook is cited with its page");
  await page.goto(`${url}/#/documents/${cited.document_id}?chunk=${cited.ordinal}`);
  const mark = page.locator(".text mark");
  await mark.waitFor();
  assert.equal(await mark.textContent(), cited.text);
  assert.ok(await mark.evaluate((element) => {
    const [box, around] = [element.getBoundingClientRect(), element.closest(".text").getBoundingClientRect()];
    return box.top >= around.top && box.top < around.bottom;
  }), "the passage is in view");
  await page.locator(".text", { hasText: `page ${cited.pages[0]}` }).waitFor();
  await picture("document");
}

async function replays() {
  await nav("Documents").click();
  const text = "# Plants\n\nThe hemlock by the weir is poisonous.\n";
  await page.locator("#files").setInputFiles({ name: "plants.md", mimeType: "text/markdown", buffer: Buffer.from(text) });
  const row = page.locator("#documents tr", { hasText: "plants.md" });
  await row.locator(".badge.failed").waitFor();
  const of = async (state) => (await api("GET", `/api/v1/queue/dead-letters?state=${state}`)).dead_letters;
  const letter = await until("a dead letter", async () => (await of("unresolved"))[0]);
  await go("");
  await page.locator("[data-stage=embed] [data-figure=failures] a").click();
  await page.getByRole("heading", { name: "Dead letters" }).waitFor();
  const entry = page.locator(`[data-letter="${letter.id}"]`);
  await entry.getByText(letter.reason_code).waitFor();
  await entry.getByRole("button", { name: "Look inside" }).click();
  await page.getByText("Payload").waitFor();
  await picture("dead-letters");
  await page.getByRole("button", { name: "Try a replay of all" }).click();
  await page.getByText("1 dead letters of 1 versions would be replayed").waitFor();
  await ask("let the provider take every text");
  await entry.getByRole("checkbox").check();
  await page.getByRole("button", { name: "Replay chosen" }).click();
  await until("the letter is resolved", async () => (await of("replayed")).some((one) => one.id === letter.id));
  await page.getByText("There are none").waitFor();
  await nav("Documents").click();
  await row.locator(".badge.ready").waitFor();
}

async function readsTheOverview() {
  await go("");
  const backlog = page.locator("[data-stage=extract] [data-figure=backlog]");
  await backlog.waitFor();
  await page.locator("[data-figure=ready]", { hasText: "3" }).waitFor();
  // The stages' figures are of all tenants; those that are not say so.
  for (const words of ["your documents that wait for their turn", "your documents whose latest version is ready"]) await page.getByText(words).waitFor();
  assert.equal(await page.getByText("your failures").count(), 3);
  await page.getByText(/^Healthy\./).waitFor();
  await page.locator("[data-stage=extract] .chart").first().waitFor();
  await picture("overview");
}

/** What the overview shows, as texts. */
const shownFigures = () => page.evaluate(() => {
  const texts = (area, name) => Object.fromEntries([...area.querySelectorAll(`[data-${name}]`)].map((one) => [one.dataset[name], one]));
  const figures = (area) => Object.fromEntries(Object.entries(texts(area, "figure")).map(([name, one]) => [name, one.textContent]));
  const flow = document.querySelector(".flow");
  return {
    stages: Object.fromEntries(Object.entries(texts(flow, "stage")).map(([name, box]) => [name, figures(box)])),
    ends: Object.fromEntries([...flow.querySelectorAll(".end [data-figure]")].map((one) => [one.dataset.figure, one.textContent])),
    states: Object.fromEntries(Object.entries(texts(document, "state")).map(([name, one]) => [name, one.querySelector("strong").textContent])),
  };
});

/** A number of seconds, or of events a second, as the page writes it; nothing where it writes that there is none. */
function numberOf(shown) {
  const [, number, unit] = /^([\d,.]+) ?(.*)$/.exec(shown) ?? [];
  const factor = { "ms": 0.001, "s": 1, "min": 60, "h": 3600, "days": 86400, "/s": 1 }[unit];
  return number === undefined ? null : Number(number.replaceAll(",", "")) * factor;
}

/** Whether a figure that was read at another moment is the same: `apart` at most, beside what rounding takes. */
const isNear = (shown, told, apart) =>
  (told === null || shown === null ? told === shown : Math.abs(shown - told) <= apart + 0.1 * Math.abs(told));

/** What of a stage is not shown as the API tells it, in words. */
function differences(stage, shown, unresolved) {
  const exact = { backlog: stage.backlog, pending: stage.pending, retrying: stage.retrying, consumers: stage.consumers, failures: unresolved };
  const wrong = Object.entries(exact).filter(([name, figure]) => String(figure) !== shown[name]).map(([name]) => name);
  // Both change from one look to the next.
  if (!isNear(numberOf(shown.rate_per_second), stage.rate_per_second, 1)) wrong.push("rate_per_second");
  if (!isNear(numberOf(shown.oldest_age_seconds), stage.backlog ? stage.oldest_age_seconds : null, 5)) wrong.push("oldest_age_seconds");
  return wrong.map((name) => `${stage.stage}: ${name}`);
}

/** Every figure on the page is the API's, while a stage is paused and while a worker is gone. */
async function figuresEqual(what) {
  let wrong = [];
  const areEqual = async () => {
    const before = await api("GET", "/api/v1/queue/info");
    const shown = await shownFigures();
    const after = await api("GET", "/api/v1/queue/info");
    const of = (states) => Object.entries(states).filter(([, number]) => number > 0).map(([name, number]) => `${name}: ${number}`).sort();
    const steady = ({ stages, documents }) => JSON.stringify([stages.map((stage) => [stage.backlog, stage.pending, stage.retrying, stage.consumers]), documents]);
    wrong = before.stages.flatMap((stage) => differences(stage, shown.stages[stage.stage], before.unresolved[stage.stage] ?? 0));
    const { documents } = before;
    const waits = ["awaiting_upload", "waiting", "releasing"].reduce((sum, state) => sum + (documents[state] ?? 0), 0);
    if (shown.ends.waits !== String(waits)) wrong.push("Accepted");
    if (shown.ends.ready !== String(documents.ready ?? 0)) wrong.push("Ready");
    if (String(of(shown.states)) !== String(of(documents))) wrong.push("states");
    return wrong.length === 0 && steady(before) === steady(after);
  };
  await until(`the figures of the page and of the API are the same ${what}`, areEqual).catch((error) => {
    throw new Error(`${error.message}; different: ${wrong.join(", ") || "none at the last look"}`);
  });
}

async function pausesAndLosesAWorker() {
  await nav("Operations").click();
  const embed = page.locator("[data-stage=embed]");
  await embed.getByPlaceholder("why").fill("the provider is away");
  await embed.getByRole("button", { name: "Pause" }).click();
  await embed.locator(".badge.paused").waitFor();
  await page.locator("[data-task=consumers]").getByRole("button", { name: "Try" }).click();
  await page.getByText("consumers, tried: ok").waitFor();
  await picture("operations");
  await nav("Documents").click();
  // Workers learn of a pause a moment later, and one that waits for an event finishes the next. So files are sent until three wait.
  const queue = () => api("GET", "/api/v1/queue/info");
  const before = (await queue()).documents.ready ?? 0;
  for (let sent = 1, waiting = 0; waiting < 3; sent += 1) {
    const buffer = Buffer.from(`# ${sent}\n\nThe heron waits at the weir of number ${sent}.\n`);
    await page.locator("#files").setInputFiles({ name: `${sent}.md`, mimeType: "text/markdown", buffer });
    waiting = await until(`what became of file ${sent}`, async () => {
      const { documents, stages } = await queue();
      const { backlog } = stages.find(({ stage }) => stage === "embed");
      return (documents.ready ?? 0) - before + backlog === sent && backlog + 1;
    }) - 1;
  }
  await go("");
  await page.getByText(/embed is paused since .* the provider is away/).waitFor();
  await page.locator("[data-stage=embed] [data-figure=backlog]", { hasText: "3" }).waitFor();
  await figuresEqual("while a stage is paused");
  await picture("overview-paused");
  await ask("start another embedder");
  await page.locator("[data-stage=embed] [data-figure=consumers]", { hasText: "2" }).waitFor();
  await figuresEqual("with another worker");
  await ask("kill that embedder");
  await page.locator("[data-stage=embed] [data-figure=consumers]", { hasText: "1" }).waitFor();
  await figuresEqual("while a worker is gone");
  await nav("Operations").click();
  await embed.getByRole("button", { name: "Resume" }).click();
  await embed.locator(".badge.reads").waitFor();
  await go("");
  await page.getByText(/^Healthy\. Nothing is waiting/).waitFor();
  await figuresEqual("at the end");
}

async function makesAKey() {
  await nav("Tenant").click();
  await page.getByLabel("Name").fill("reader");
  await page.getByRole("button", { name: "Make a key" }).click();
  const secret = await page.locator(".secret").textContent();
  assert.match(secret, /^rk_[0-9a-f]{16}_/);
  await picture("tenant");
  const works = await fetch(`${url}/api/v1/documents`, { headers: { authorization: `Bearer ${secret}` } });
  assert.equal(works.status, 200);
  await page.reload();
  await page.locator("tr", { hasText: "reader" }).waitFor();
  assert.equal(await page.getByText(secret).count(), 0, "a key is shown once");
}

async function usesTheKeyboard() {
  await go("");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "skip");
  await nav("Search").focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Search" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "query");
}

async function signsOut() {
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
}

const steps = [signsIn, uploads, searches, replays, readsTheOverview, pausesAndLosesAWorker, makesAKey, usesTheKeyboard, signsOut];
await walk(browser, steps, screenshots, async (step) => {
  assert.deepEqual(heard.complaints, [], `the browser complains in ${step.name}`);
  assert.deepEqual(await page.locator(".toast.error").allTextContents(), [], `the page complains in ${step.name}`);
});

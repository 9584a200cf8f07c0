// What the page does when somebody leaves a view, signs out, signs in as another, or when what is shown ends. Run by tests/page.rs:
//
//     node sessions.mjs PLAYWRIGHT BROWSER URL KEY KEY_OF_ANOTHER_TENANT SCREENSHOTS
//
// Requests are held back or refused on their way to the server where a step needs just that moment; those that arrive are answered by the
// server. Each step has a browser of its own.

import assert from "node:assert/strict";
import { client, held, launch, listen, PATIENCE, refuse, until, walk } from "./browser.mjs";

const [playwright, browserPath, url, key, otherKey, screenshots] = process.argv.slice(2);
const browser = await launch(playwright, browserPath);
const api = client(url, key);
const other = client(url, otherKey);
const UPLOADS = (address) => address.pathname === "/api/v1/documents";

const text = (name, words = name) => ({ name, mimeType: "text/markdown", buffer: Buffer.from(`# ${words}\n\nThis is ${words}.\n`) });
const nav = (page, name) => page.getByRole("navigation").getByRole("link", { name });
const namesOf = async (ask) => (await ask("GET", "/api/v1/documents?limit=200")).documents.map((one) => one.filename);

/** A page in a browser of its own, whose complaints are no more than those `expected`. */
async function opened(expected = [], context = null) {
  const page = await (context ?? await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
  page.setDefaultTimeout(PATIENCE);
  const heard = listen(page, url);
  heard.expected = expected;
  page.heard = heard;
  return page;
}

async function signIn(page, secret) {
  await page.goto(url);
  await fillIn(page, secret);
}

async function fillIn(page, secret) {
  await page.getByLabel("API key").fill(secret);
  await page.getByLabel("API key").press("Enter");
  await page.getByRole("button", { name: "Sign out" }).waitFor();
}

async function leaves(page) {
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
}

async function ends(page) {
  assert.deepEqual(page.heard.complaints, []);
  await page.context().close();
}

async function filesEndWithTheirSession() {
  const page = await opened();
  await signIn(page, key);
  await nav(page, "Documents").click();
  const gate = await held(page, UPLOADS);
  const names = [1, 2, 3, 4, 5, 6].map((number) => `mine-${number}.md`);
  await page.locator("#files").setInputFiles(names.map((name) => text(name)));
  await until("three files are being sent", () => gate.came.length === 3);
  await leaves(page);
  await page.getByText("6 files were not uploaded, since the session has ended").waitFor();
  gate.release();
  await fillIn(page, otherKey);
  await nav(page, "Documents").click();
  await page.getByText("No documents yet").waitFor();
  assert.equal(await page.locator(".uploads li").count(), 0);
  // What the queue takes now comes after whatever it had.
  await page.locator("#files").setInputFiles(text("theirs.md"));
  await page.locator("#documents tr", { hasText: "theirs.md" }).locator(".badge.ready").waitFor();
  assert.deepEqual(await namesOf(other), ["theirs.md"]);
  assert.equal(gate.came.length, 4, "only the one of the second session was asked for");
  assert.deepEqual((await namesOf(api)).filter((name) => names.includes(name)), []);
  await ends(page);
}

async function filesOutliveTheirView() {
  const page = await opened(["Failed to load resource"]);
  await signIn(page, key);
  await nav(page, "Documents").click();
  const gate = await held(page, UPLOADS);
  await page.locator("#collection").fill("first");
  await page.locator("#files").setInputFiles(["a.md", "b.md", "c.md", "d.md"].map((name) => text(name)));
  await page.locator("#collection").fill("second");
  await page.locator(".uploads li", { hasText: "d.md into first" }).getByText("waits").waitFor();
  assert.ok(await page.evaluate(() => {
    const event = new Event("beforeunload", { cancelable: true });
    return !window.dispatchEvent(event);
  }), "the browser asks before it closes the page");
  await nav(page, "Overview").click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await nav(page, "Documents").click();
  await page.locator(".uploads li").nth(3).waitFor();
  gate.release();
  await until("the four files are in the collection that was named when they were taken", async () => {
    const { documents } = await api("GET", "/api/v1/documents?limit=200");
    return documents.filter((one) => one.collection === "first").length === 4;
  });
  await until("the browser closes a page that sends nothing", () =>
    page.evaluate(() => window.dispatchEvent(new Event("beforeunload", { cancelable: true }))));
  // A file that fails while another view is open is not lost in silence.
  await page.unroute(UPLOADS);
  const second = await held(page, UPLOADS);
  await page.locator("#files").setInputFiles({ name: "nothing.md", mimeType: "text/markdown", buffer: Buffer.alloc(0) });
  await until("the file is being sent", () => second.came.length === 1);
  await nav(page, "Search").click();
  await page.getByRole("heading", { name: "Search" }).waitFor();
  second.release();
  await page.locator(".toast.error", { hasText: "nothing.md was not uploaded" }).waitFor();
  await nav(page, "Documents").click();
  const row = page.locator(".uploads li.error", { hasText: "nothing.md" });
  await row.getByRole("button").click();
  await row.waitFor({ state: "detached" });
  const isTaken = await page.evaluate(() => ["dragover", "drop"].map((name) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(["text"], "beside.md"));
    return !document.querySelector("h1").dispatchEvent(new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true }));
  }));
  assert.deepEqual(isTaken, [true, true], "a file that misses the box is not opened in place of the page");
  await ends(page);
}

/** Without the channel between tabs, as in a browser that lacks it, the server's refusal tells. */
async function withoutTheChannel(page) {
  await page.addInitScript(() => {
    window.BroadcastChannel = class extends EventTarget {
      postMessage() {}
    };
  });
}

async function tabsShowOneSession() {
  // What a tab asks for before it hears of the other's sign-out is refused.
  const first = await opened(["401"]);
  await signIn(first, key);
  const second = await opened([], first.context());
  await second.goto(url);
  await leaves(second);
  await first.getByText("The session has ended").waitFor();
  await fillIn(second, otherKey);
  await first.locator("#who", { hasText: "other" }).waitFor();
  assert.deepEqual(second.heard.complaints, []);
  await ends(first);
}

async function aTabWithAnEarlierSessionReadsAndChangesNothing() {
  const first = await opened(["401", "403"]);
  await withoutTheChannel(first);
  await signIn(first, key);
  const second = await opened([], first.context());
  await second.goto(url);
  await leaves(second);
  await fillIn(second, otherKey);
  await nav(first, "Documents").click();
  await first.getByText("this one shows the tenant other from now on").waitFor();
  await first.locator("#who", { hasText: "other" }).waitFor();
  await nav(first, "Tenant").click();
  await first.getByRole("heading", { name: "Tenant other" }).waitFor();
  await leaves(second);
  await fillIn(second, key);
  await first.getByLabel("Name").fill("of the wrong tenant");
  await first.getByRole("button", { name: "Make a key" }).click();
  await first.getByText("this one shows the tenant default from now on").waitFor();
  for (const ask of [api, other]) {
    const { keys } = await ask("GET", "/api/v1/keys");
    assert.deepEqual(keys.filter((one) => one.name === "of the wrong tenant"), []);
  }
  assert.deepEqual(second.heard.complaints, []);
  await ends(first);
}

/** Uploads a text beside the page. */
async function sent(name, words = name) {
  const response = await fetch(`${url}/api/v1/documents?filename=${name}`, {
    method: "POST", headers: { authorization: `Bearer ${key}`, "content-type": "text/markdown" }, body: text(name, words).buffer });
  assert.ok(response.ok, `${name}: ${response.status}`);
  return (await response.json()).id;
}

const stateOf = async (id) => (await api("GET", `/api/v1/documents/${id}/status`)).state;
const become = (id, state) => until(`the document is ${state}`, async () => (await stateOf(id)) === state);
/** Texts of this name are sent until one stays before the embedder: workers learn of a pause a moment later. */
async function stuck(name) {
  for (;;) {
    const id = await sent(name, `${name}, number ${stuck.number += 1}`);
    const status = () => api("GET", `/api/v1/documents/${id}/status`);
    if (await until("it is ready, or waits for a paused stage", async () => {
      const { state, waits } = await status();
      return state === "ready" ? "ready" : state === "embedding" && waits?.reason === "paused" && "waits";
    }) === "waits") return id;
  }
}
stuck.number = 0;
const pause = (stage) => api("POST", `/api/v1/queue/stages/${stage}/pause`, { reason: "for the test" });
const resume = (stage) => api("POST", `/api/v1/queue/stages/${stage}/resume`);

/** Keeps the page's streams of events where a step can look at them. */
async function keepsStreams(page) {
  await page.addInitScript(() => {
    window.streams = [];
    window.EventSource = class extends EventSource {
      constructor(address) {
        super(address);
        window.streams.push(this);
      }
    };
  });
}

/** That all streams are closed, and that none is opened again in the minutes that follow. */
async function watchesNoMore(page) {
  const states = () => page.evaluate(() => window.streams.map((stream) => stream.readyState));
  await until("the streams are closed", async () => (await states()).every((state) => state === 2));
  const before = (await states()).length;
  assert.ok(before > 0);
  await page.clock.fastForward(120_000);
  assert.deepEqual(await states(), Array(before).fill(2));
}

async function aDocumentIsWatchedUntilItEndsOrIsDeleted() {
  const page = await opened(["404"]);
  await page.clock.install();
  await keepsStreams(page);
  await signIn(page, key);
  await pause("embed");
  const [deleted, ended] = [await stuck("deleted.md"), await stuck("ended.md")];
  await page.goto(`${url}/#/documents/${deleted}`);
  await page.getByRole("heading", { name: "deleted.md" }).waitFor();
  await page.locator(".badge.embedding").waitFor();
  await api("DELETE", `/api/v1/documents/${deleted}`);
  await page.getByText("This document was deleted").waitFor();
  await page.locator(".badge.deleted").waitFor();
  assert.equal(await page.getByRole("button", { name: "Cancel" }).count(), 0);
  await watchesNoMore(page);
  await page.goto(`${url}/#/documents/${ended}`);
  await page.locator(".badge.embedding").waitFor();
  // What is drawn again takes nothing from the keyboard.
  await page.getByRole("button", { name: "Delete" }).focus();
  await resume("embed");
  await page.locator(".badge.ready").waitFor();
  await page.getByRole("button", { name: "Cancel" }).waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Delete");
  await watchesNoMore(page);
  // Nobody is told of what becomes of it later, until somebody comes back to the page.
  await page.locator(".chunk").first().waitFor();
  await api("DELETE", `/api/v1/documents/${ended}`);
  await page.evaluate(() => window.dispatchEvent(new Event("focus")));
  await page.getByText("This document was deleted").waitFor();
  await ends(page);
}

async function aDocumentSaysThatTheConnectionIsLost() {
  const page = await opened(["net::ERR_FAILED"]);
  await signIn(page, key);
  await pause("embed");
  const id = await stuck("far.md");
  await page.route("**/events", (route) => route.abort());
  await page.goto(`${url}/#/documents/${id}`);
  await page.getByText(/The connection to the server is lost. This is how it was at .*; trying again/).waitFor();
  await page.unroute("**/events");
  await page.getByText("The connection to the server is lost").waitFor({ state: "hidden" });
  await resume("embed");
  await page.locator(".badge.ready").waitFor();
  await ends(page);
}

async function aRevokedKeyShowsNothingMore() {
  const page = await opened(["401"]);
  const reader = await api("POST", "/api/v1/keys", { name: "reader", scopes: ["documents:read"] });
  await pause("embed");
  const id = await stuck("revoked.md");
  await signIn(page, reader.secret);
  await page.goto(`${url}/#/documents/${id}`);
  await page.getByRole("heading", { name: "revoked.md" }).waitFor();
  await api("DELETE", `/api/v1/keys/${reader.key.id}`);
  await page.getByText("The session has ended").waitFor();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.equal(await page.getByText("revoked.md").count(), 0);
  await resume("embed");
  await become(id, "ready");
  await ends(page);
}

async function aRevokedKeyIsNoticedWhereNothingIsWatched() {
  const page = await opened(["401"]);
  await page.clock.install();
  const reader = await api("POST", "/api/v1/keys", { name: "reader", scopes: ["documents:read"] });
  const id = await sent("over.md");
  await become(id, "ready");
  await signIn(page, reader.secret);
  await page.goto(`${url}/#/documents/${id}`);
  await page.locator(".badge.ready").waitFor();
  await api("DELETE", `/api/v1/keys/${reader.key.id}`);
  await until("somebody who uses the page is told", async () => {
    await page.clock.fastForward(20_000);
    await page.keyboard.press("Tab");
    return page.getByText("The session has ended").isVisible();
  });
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.equal(await page.getByText("over.md").count(), 0);
  await ends(page);
}

async function secretsAreShownWhateverBecomesOfTheList() {
  const page = await opened(["503"]);
  await signIn(page, key);
  await nav(page, "Tenant").click();
  for (const [section, fields, button, secret] of [
    ["Keys", { Name: "shown once" }, "Make a key", /^rk_/],
    ["Webhooks", { Address: "http://127.0.0.1:9/hook" }, "Make a webhook", /^whsec_/],
  ]) {
    const area = page.getByRole("region", { name: section });
    const address = `**/api/v1/${section.toLowerCase()}`;
    for (const [label, value] of Object.entries(fields)) await area.getByLabel(label).fill(value);
    await page.route(address, (route) => (route.request().method() === "GET" ? refuse(503)(route) : route.continue()));
    await area.getByRole("button", { name: button }).click();
    assert.match(await area.locator(".secret").textContent(), secret);
    const message = page.locator(".toast.error", { hasText: "It was made; the list cannot be read again" });
    await message.getByRole("button", { name: "Close" }).click();
    await page.unroute(address);
  }
  // Where the view is left before the answer is there, the secret waits in a message; it goes with the session.
  const gate = await held(page, "**/api/v1/keys");
  await page.getByLabel("Name").fill("left");
  await page.getByRole("button", { name: "Make a key" }).click();
  await until("the key is asked for", () => gate.came.length === 1);
  await nav(page, "Search").click();
  await page.getByRole("heading", { name: "Search" }).waitFor();
  gate.release();
  await page.locator(".toast .secret").waitFor();
  await leaves(page);
  assert.equal(await page.locator(".secret").count(), 0);
  for (const { id } of (await api("GET", "/api/v1/webhooks")).webhooks) await api("DELETE", `/api/v1/webhooks/${id}`);
  await ends(page);
}

async function aReplayEndsWithItsView() {
  const page = await opened();
  const ids = [];
  for (const number of [1, 2, 3, 4]) ids.push(await sent(`hemlock-${number}.md`, `hemlock number ${number}`));
  for (const id of ids) await become(id, "failed");
  const unresolved = async () => (await api("GET", "/api/v1/queue/dead-letters?state=unresolved")).dead_letters
    .filter((letter) => ids.includes(letter.document_id)).length;
  await until("four dead letters", async () => (await unresolved()) === 4);
  await signIn(page, key);
  await nav(page, "Dead letters").click();
  // A letter a round, each of which waits until it may go on.
  const rounds = [];
  let go = () => {};
  await page.route("**/dead-letters/replay", async (route) => {
    const body = route.request().postDataJSON();
    if (!body.dry_run) {
      rounds.push(body);
      await new Promise((resolve) => { go = resolve; });
    }
    await route.continue({ postData: JSON.stringify({ ...body, limit: 1 }) });
  });
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Replay all" }).click();
  await dialog.getByText("4 dead letters of 4 versions are replayed, 10 a second").waitFor();
  await dialog.getByRole("button", { name: "Keep" }).click();
  assert.equal(rounds.length, 0);
  await page.getByRole("button", { name: "Replay all" }).click();
  await dialog.getByRole("button", { name: "Replay all" }).click();
  await until("a round", () => rounds.length === 1);
  await page.getByRole("button", { name: "Stop" }).click();
  go();
  await page.locator(".toast", { hasText: "1 replayed; then stopped, the others wait" }).getByRole("button").click();
  assert.equal(rounds.length, 1);
  // The one that was replayed fails again.
  await until("four dead letters again", async () => (await unresolved()) === 4);
  await page.getByRole("button", { name: "Replay all" }).click();
  await dialog.getByRole("button", { name: "Replay all" }).click();
  await until("a round", () => rounds.length === 2);
  await nav(page, "Search").click();
  await page.getByRole("heading", { name: "Search" }).waitFor();
  go();
  await page.locator(".toast", { hasText: "1 replayed; then stopped" }).waitFor();
  assert.equal(rounds.length, 2);
  assert.equal(new URL(page.url()).hash, "#/search");
  await until("what was replayed has failed again", async () => (await unresolved()) === 4);
  for (const id of ids) await api("DELETE", `/api/v1/documents/${id}`);
  await ends(page);
}

async function aRunOfATaskIsFollowedWhileItsViewIsShown() {
  const page = await opened(["429"]);
  await page.clock.install();
  await signIn(page, key);
  await nav(page, "Operations").click();
  // The janitor is quick; what it answers is told as if it had not taken the run up yet.
  const asIf = (state) => async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...await response.json(), state, requested_at: new Date(0).toISOString() } });
  };
  await page.route("**/janitor/tasks/*/run", asIf("queued"));
  const looks = [];
  const answers = [refuse(429), asIf("queued"), (route) => route.continue()];
  await page.route("**/janitor/runs/*", (route) => {
    looks.push(route.request());
    return (answers.shift() ?? asIf("running"))(route);
  });
  const task = page.locator("[data-task=consumers]");
  await task.getByRole("button", { name: "Try" }).click();
  await page.getByText("consumers: no janitor has taken it up yet").waitFor();
  await page.getByText("consumers, tried: ok").waitFor();
  assert.equal(looks.length, 3);
  await task.getByRole("button", { name: "Try" }).click();
  await until("a look that finds it running", () => looks.length > 3);
  await nav(page, "Search").click();
  await page.getByRole("heading", { name: "Search" }).waitFor();
  const before = looks.length;
  await page.clock.fastForward(120_000);
  await nav(page, "Operations").click();
  await task.waitFor();
  assert.equal(looks.length, before, "nobody looks any more");
  await ends(page);
}

/** Keeps an element under a name, to find out later whether it is still the one. */
const keep = (locator) => locator.evaluate((element) => {
  window.kept = element;
  element.focus();
});
const isKept = (page) => page.evaluate(() => window.kept.isConnected && document.activeElement === window.kept);

async function whatIsDrawnAgainStaysInHand() {
  const page = await opened(["Failed to load resource"]);
  await page.clock.install();
  await become(await sent("first.md"), "ready");
  await signIn(page, key);
  const ready = page.locator("[data-state=ready] a");
  await keep(ready);
  const number = async () => Number((await ready.locator("strong").textContent()).replaceAll(",", ""));
  const before = await number();
  await become(await sent("second.md"), "ready");
  await until("the overview counts it", async () => (await number()) === before + 1);
  assert.ok(await isKept(page), "the link of a state");
  await nav(page, "Documents").click();
  const row = (name) => page.locator("#documents tr", { hasText: name });
  await keep(row("second.md").getByRole("link"));
  // All have ended, and the page looks nevertheless.
  await become(await sent("third.md"), "ready");
  await row("third.md").waitFor();
  assert.ok(await isKept(page), "the link of a document");
  // What nobody sees is not asked for, until somebody looks again.
  const isRead = (request) => request.url().includes("/api/v1/documents?");
  const [reads, answered] = [[], []];
  page.on("request", (request) => isRead(request) && reads.push(request));
  page.on("requestfinished", (request) => isRead(request) && answered.push(request));
  const hide = (isHidden) => page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, isHidden);
  await hide(true);
  await until("what was under way is answered", () => answered.length >= reads.length);
  const asked = reads.length;
  await page.clock.fastForward(60_000);
  await page.evaluate(() => fetch("/health").then((answer) => answer.status));
  assert.equal(reads.length, asked);
  await hide(false);
  await until("the list is read again", () => reads.length > asked);
  await page.route("**/api/v1/documents?*", refuse(503));
  await page.getByText(/As of .*; it cannot be read again: not at the moment/).waitFor();
  await page.unroute("**/api/v1/documents?*");
  await page.clock.fastForward(60_000);
  await page.getByText("it cannot be read again").waitFor({ state: "hidden" });
  await nav(page, "Operations").click();
  const stage = page.locator("[data-stage=index]");
  await stage.getByText("Lanes and consumers").click();
  await stage.getByRole("table", { name: "Lanes" }).waitFor();
  await keep(page.locator("[data-stage=embed]").getByPlaceholder("why"));
  await page.keyboard.type("half a reason");
  await pause("index");
  await stage.locator(".badge.paused").waitFor();
  assert.ok(await stage.getByRole("table", { name: "Lanes" }).isVisible(), "what was opened is open");
  assert.ok(await isKept(page), "the field of a reason");
  assert.equal(await page.locator("[data-stage=embed]").getByPlaceholder("why").inputValue(), "half a reason");
  await resume("index");
  await stage.locator(".badge.reads").waitFor();
  await page.route("**/queue/stages/*", refuse(503));
  await page.getByText(/As of .*; it cannot be read again/).waitFor();
  await page.unroute("**/queue/stages/*");
  await page.clock.fastForward(60_000);
  await page.getByText("it cannot be read again").waitFor({ state: "hidden" });
  await ends(page);
}

const steps = [filesEndWithTheirSession, filesOutliveTheirView, tabsShowOneSession, aTabWithAnEarlierSessionReadsAndChangesNothing,
  aDocumentIsWatchedUntilItEndsOrIsDeleted, aDocumentSaysThatTheConnectionIsLost, aRevokedKeyShowsNothingMore, aRevokedKeyIsNoticedWhereNothingIsWatched,
  secretsAreShownWhateverBecomesOfTheList, aReplayEndsWithItsView, aRunOfATaskIsFollowedWhileItsViewIsShown, whatIsDrawnAgainStaysInHand];
const only = process.env.ONLY?.split(",");
await walk(browser, steps.filter((step) => !only || only.includes(step.name)), screenshots);

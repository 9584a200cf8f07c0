// What the page does when somebody leaves a view, signs out, signs in as another, or when what is shown ends. Run by tests/page.rs:
//
//     node sessions.mjs PLAYWRIGHT BROWSER URL KEY KEY_OF_ANOTHER_TENANT SCREENSHOTS
//
// Requests are held back or refused on their way to the server where a step needs just that moment; those that arrive are answered by the
// server. Each step has a browser of its own.

import assert from "node:assert/strict";
import { client, launch, listen, PATIENCE, until, walk } from "./browser.mjs";

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

/** Keeps requests back until it is called. */
async function held(page, address, method = "POST") {
  let release;
  const free = new Promise((resolve) => { release = resolve; });
  const came = [];
  await page.route(address, async (route) => {
    if (route.request().method() !== method) {
      await route.fallback();
      return;
    }
    came.push(route.request());
    await free;
    // One that was given up meanwhile has nothing to go on with.
    await route.continue().catch(() => {});
  });
  return { came, release };
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
  const first = await opened();
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

const steps = [filesEndWithTheirSession, filesOutliveTheirView, tabsShowOneSession, aTabWithAnEarlierSessionReadsAndChangesNothing];
const only = process.env.ONLY?.split(",");
await walk(browser, steps.filter((step) => !only || only.includes(step.name)), screenshots);

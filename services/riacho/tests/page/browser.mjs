// What the walks through the page share: a browser whose complaints are kept, waiting for conditions, and the API beside the page.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

export const PATIENCE = 90_000;

export async function launch(playwright, executablePath) {
  const { chromium } = createRequire(import.meta.url)(playwright);
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** Waits until what is asked for is there. */
export async function until(what, check) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await check();
    if (found) return found;
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Keeps what the browser complains about, except for what is expected at the time. */
export function listen(page, url) {
  const heard = { complaints: [], expected: [] };
  page.on("console", (message) => {
    const isExpected = heard.expected.some((text) => message.text().includes(text));
    if (message.type() === "error" && !isExpected) heard.complaints.push(message.text());
  });
  page.on("pageerror", (error) => heard.complaints.push(String(error)));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) heard.complaints.push(`a foreign address: ${request.url()}`);
  });
  return heard;
}

/** The API as a program uses it: with a key, and without the page. */
export function client(url, key) {
  return async (method, address, body) => {
    const response = await fetch(url + address, {
      method, headers: { authorization: `Bearer ${key}`, "content-type": "application/json" }, body: body && JSON.stringify(body) });
    assert.ok(response.ok, `${method} ${address}: ${response.status}`);
    return response.status === 204 ? null : response.json();
  };
}

/** Keeps requests back until it is called. */
export async function held(page, address, method = "POST") {
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

/** A problem in place of what the server would answer, as a proxy or an overloaded server gives one. */
export const refuse = (status) => (route) => route.fulfill({
  status, contentType: "application/problem+json", body: JSON.stringify({ status, code: "unavailable", detail: "not at the moment" }) });

/** Takes the steps one after the other, and ends the process: with 0 where all was as it should be. */
export async function walk(browser, steps, screenshots, after = () => {}) {
  try {
    for (const step of steps) {
      console.log(step.name);
      await step();
      await after(step);
    }
  } catch (error) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    const name = path.basename(process.argv[1], ".mjs");
    for (const [at, page] of pages.entries()) await page.screenshot({ path: path.join(screenshots, `failed-${name}-${at}.png`) }).catch(() => {});
    console.error(error);
    process.exitCode = 1;
  } finally {
    await browser.close();
    process.exit();
  }
}

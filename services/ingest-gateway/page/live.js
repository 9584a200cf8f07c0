// Reading again and again what a view shows, and saying so when it cannot be read.

import { h } from "./dom.js";

/** Between two turns after failures, at most. */
const AT_MOST = 30_000;

/** Waits, but not beyond the signal. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}

/** Waits until the page can be seen. What nobody sees is not asked for, which would keep the session from ending. */
function seen(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

/** A line that is there only while something is wrong. */
export function trouble() {
  const line = h("p", { class: "notice unhealthy", role: "status", hidden: true });
  const say = (text) => {
    line.hidden = !text;
    if (line.textContent !== text) line.textContent = text;
  };
  return { line, say };
}

/**
 * Calls `read` until the signal, with pauses of `every()` milliseconds, which grow while it fails, and not while the page is hidden. While it
 * fails, `say` is told from when that is which is shown.
 */
export async function poll(signal, say, every, read) {
  let last = new Date();
  let failures = 0;
  for (;;) {
    await pause(Math.min(every() * 2 ** failures, AT_MOST), signal);
    await seen(signal);
    if (signal.aborted) return;
    try {
      await read();
      last = new Date();
      failures = 0;
      say("");
    } catch (error) {
      if (signal.aborted) return;
      failures += 1;
      say(`As of ${last.toLocaleTimeString()}; it cannot be read again: ${error.message}. Trying again.`);
    }
  }
}

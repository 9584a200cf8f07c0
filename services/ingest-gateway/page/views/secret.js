// What the server shows once.

import { session } from "../api.js";
import { fill, h, notice } from "../dom.js";

/**
 * Shows a secret as soon as it is there; where the view it was made in is no longer shown, in a message that stays, and where its session has ended,
 * nowhere.
 */
export function showSecret(element, secret, text, { signal, token }) {
  // Over plain http a browser gives no clipboard; the secret can be marked with a click then.
  const copy = navigator.clipboard
    && h("button", { type: "button", onclick: () => navigator.clipboard.writeText(secret).then(() => notice("Copied.")) }, "Copy");
  const parts = [h("p", {}, text), h("p", { class: "row" }, h("code", { class: "secret" }, secret), copy)];
  if (!signal.aborted) fill(element, h("div", { class: "notice attention" }, parts));
  else if (session.token === token) fill(notice("", "attention").firstChild, parts);
}

/** What was made is made, whether the list shows it or not. */
export function listFailed(error) {
  if (error.name !== "AbortError") notice(`It was made; the list cannot be read again: ${error.message}`, "error");
}

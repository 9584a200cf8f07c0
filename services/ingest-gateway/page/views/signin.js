// Signing in with a key.

import { act, fill, h } from "../dom.js";

export function signIn(main, begin) {
  const key = h("input", { id: "key", type: "password", autocomplete: "off", required: true, placeholder: "rk_..." });
  const button = h("button", { class: "primary" }, "Sign in");
  const form = h("form", {
    class: "panel narrow",
    onsubmit: (event) => {
      event.preventDefault();
      act(button, () => begin(key.value.trim()));
    },
  },
  h("h1", {}, "Sign in"),
  h("p", {}, "Riacho takes documents in, cuts them into passages, and finds these again with the page they stand on. Sign in with an API key of your tenant."),
  h("label", { for: "key" }, "API key"), key, button,
  h("p", { class: "muted" }, "With `riacho up` the first key is in the file api-key of the data directory. More are made with ",
    h("code", {}, "riacho key create"), "."));
  document.title = "Sign in - Riacho";
  fill(main, form);
  key.focus();
}

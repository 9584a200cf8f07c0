// Elements from data. Texts are always set as text, so nothing that a document says becomes markup.

const listening = new WeakSet();

/** Whether something is done when something happens to an element that `h` made. */
export const hasListeners = (element) => listening.has(element);

/** An element with attributes, listeners (`onclick`) and children. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) {
      element.addEventListener(key.slice(2), value);
      listening.add(element);
    }
    else if (key === "value" || key === "checked" || key === "disabled") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

/** Puts children in the place of those that are there. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** A message: what only informs goes by itself, all others stay until they are closed. */
export function notice(text, kind = "info") {
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => box.remove() }, "×");
  const box = h("div", { class: `toast ${kind}` }, h("span", {}, text), close);
  document.getElementById("notices").append(box);
  if (kind === "info") setTimeout(() => box.remove(), 6000);
  return box;
}

/** Tells what went wrong, unless it was only given up. */
export function failed(error) {
  if (error.name !== "AbortError") notice(error.message, "error");
}

/** Runs what a button asks for, with the button off meanwhile, and tells what went wrong. */
export async function act(button, work) {
  const hadFocus = document.activeElement === button;
  button.disabled = true;
  try {
    return await work();
  } catch (error) {
    failed(error);
    return undefined;
  } finally {
    button.disabled = false;
    // A browser takes the focus from what is off; it comes back unless it is elsewhere by now.
    if (hadFocus && document.activeElement === document.body) button.focus();
  }
}

/** Asks in a dialog; answers whether it was confirmed. */
export function confirmed(title, text, label) {
  return new Promise((resolve) => {
    const end = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const cancel = h("button", { type: "button", onclick: () => end(false) }, "Keep");
    const go = h("button", { type: "button", class: "danger", onclick: () => end(true) }, label);
    const dialog = h("dialog", { "aria-label": title, oncancel: () => end(false) },
      h("h2", {}, title), h("p", {}, text), h("div", { class: "row end" }, cancel, go));
    document.body.append(dialog);
    dialog.showModal();
    cancel.focus();
  });
}

/** A table that can be scrolled sideways on a small screen. A head with # before it is one of numbers. */
export function table(caption, heads, rows) {
  return h("div", { class: "scroll" }, h("table", {},
    h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, heads.map((head) =>
      h("th", { scope: "col", class: head.startsWith("#") && "number" }, head.replace(/^#/, ""))))),
    h("tbody", {}, rows)));
}

/** A coloured word for a state. */
export function badge(state) {
  return h("span", { class: `badge ${state}` }, state.replaceAll("_", " "));
}

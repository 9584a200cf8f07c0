// Drawing again without taking anything out of somebody's hands: what is the same stays the element it was, with the focus, what is marked
// in it, and whether it is open.

import { h, hasListeners } from "./dom.js";

/**
 * Brings the children of an element to those given. Elements of the same `data-key` belong together, and others by their place. One
 * with listeners stays as long as it looks the same, and is replaced else, for its listeners belong to what it showed: what they know
 * has to be in how it looks, or in the key of an element around it.
 */
export function renew(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.closest("[data-key]")?.dataset.key;
  renewChildren(element, h("div", {}, ...children));
  if (focused && document.activeElement !== focused) (focused.isConnected ? focused : successor(element, focused, key))?.focus();
}

function renewChildren(element, wanted) {
  const keyed = new Map([...element.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let at = element.firstChild;
  for (const fresh of [...wanted.childNodes]) {
    const key = fresh.dataset?.key;
    const old = key ? keyed.get(key) : nextAlike(at, fresh);
    if (!old || old.nodeName !== fresh.nodeName) {
      element.insertBefore(fresh, at);
      continue;
    }
    // What stood before it is no more.
    while (!key && at !== old) at = removed(at);
    if (old === at) at = at.nextSibling;
    else element.insertBefore(old, at);
    renewNode(old, fresh);
  }
  while (at) at = removed(at);
}

/** Takes a node away, and answers the one after it. */
function removed(node) {
  const after = node.nextSibling;
  node.remove();
  return after;
}

/** The first of a node and those after it that is of the kind of another, neither of which has a key. */
function nextAlike(node, fresh) {
  for (let one = node; one && !one.dataset?.key; one = one.nextSibling) if (one.nodeName === fresh.nodeName) return one;
  return null;
}

function renewNode(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else if (hasListeners(old) || hasListeners(fresh)) {
    if (!looksSame(old, fresh)) old.replaceWith(fresh);
  } else {
    renewAttributes(old, fresh);
    renewChildren(old, fresh);
  }
}

/** A button is off while what it asked for is done. */
function looksSame(old, fresh) {
  const isOff = fresh.disabled;
  fresh.disabled = old.disabled;
  const isSame = old.isEqualNode(fresh);
  fresh.disabled = isOff;
  return isSame;
}

function renewAttributes(old, fresh) {
  // The content security policy lets no script set styles as an attribute.
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
  const isKept = (name) => name === "style" || (name === "open" && old.nodeName === "DETAILS");
  for (const { name } of [...old.attributes]) if (!isKept(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (!isKept(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
}

/** What stands where a focused element was: in the row of the same key, or else what says the same. */
function successor(element, focused, key) {
  const area = key ? element.querySelector(`[data-key="${CSS.escape(key)}"]`) : element;
  const alike = [...(area?.querySelectorAll(focused.nodeName) ?? [])];
  return alike.find((one) => one.textContent === focused.textContent) ?? (key && alike[0]);
}

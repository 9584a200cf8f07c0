// The API, as the page uses it: the cookie says who asks, and the token goes with what changes something.

const SESSION = "/api/v1/session";
/** What stands for the session while nobody is signed in. */
const NONE = "new";
let csrf = NONE;

/** What the server answered in place of what was asked for. */
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

async function problemOf(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy in front answers without a problem.
  }
  return new Problem(response.status, body.code ?? "unknown", body.detail ?? `the server answered ${response.status}`);
}

async function send(method, path, options = {}) {
  const mine = csrf;
  // It goes with what only reads as well: where another tab has signed in as somebody else, the server refuses it.
  const headers = { "riacho-csrf": mine, accept: "application/json", ...options.headers };
  let response;
  try {
    response = await fetch(path, { method, credentials: "same-origin", cache: "no-store", ...options, headers });
  } catch (error) {
    // Whoever asked has gone on to something else.
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "the server cannot be reached");
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  refused(problem, mine, path);
  throw problem;
}

/** Where a request was refused for what it was sent with, the page shows a session that is no more. */
function refused({ status, code }, token, path) {
  if (token !== csrf || path === SESSION) return;
  if (status === 401) sessionChanged();
  // The token of an earlier session, or a key that lacks a scope.
  else if (status === 403 && code === "forbidden") session.check().catch(() => {});
}

/** Reads JSON. */
export async function get(path, signal) {
  return (await send("GET", path, { signal })).json();
}

/** Changes something; answers what came back, if anything did. */
export async function change(method, path, body) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const response = await send(method, path, { headers, body: body === undefined ? undefined : JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

/** All tabs of a browser have one cookie: what is signed in here is signed in there. */
const tabs = new BroadcastChannel("riacho-session");
tabs.addEventListener("message", () => session.check().catch(() => {}));

function sessionChanged() {
  csrf = NONE;
  window.dispatchEvent(new Event("session-changed"));
}

async function found() {
  const response = await send("GET", SESSION);
  return response.status === 204 ? null : response.json();
}

export const session = {
  /** Stands for the session that this page shows. */
  get token() {
    return csrf;
  },
  /** Who is signed in; null where nobody is. */
  async look() {
    const now = await found();
    csrf = now?.csrf ?? NONE;
    return now;
  },
  async begin(key) {
    csrf = NONE;
    const now = await change("POST", SESSION, { key });
    csrf = now.csrf;
    tabs.postMessage("changed");
    return now;
  },
  async end() {
    await change("DELETE", SESSION);
    csrf = NONE;
    tabs.postMessage("changed");
  },
  /** Looks whether the browser still has the session that this page shows, and tells the page where it has not. */
  async check() {
    const mine = csrf;
    const now = await found();
    if (csrf === mine && (now?.csrf ?? NONE) !== mine) sessionChanged();
  },
};

/** A query string of what is set. */
export function query(fields) {
  const set = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

/** Uploads a file and tells how far it is, from 0 to 1. `token` stands for the session that it belongs to, `signal` breaks it off. */
export function upload(file, fields, { token, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
    form.append("file", file, file.name);
    request.open("POST", "/api/v1/documents");
    request.setRequestHeader("riacho-csrf", token);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener("error", () => reject(new Problem(0, "unreachable", "the upload broke off")));
    request.addEventListener("abort", () => reject(new DOMException("the upload was stopped", "AbortError")));
    request.addEventListener("load", () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // Told below.
      }
      if (request.status === 202) {
        resolve(body);
        return;
      }
      const problem = new Problem(request.status, body.code, body.detail ?? `the server answered ${request.status}`);
      refused(problem, token, "/api/v1/documents");
      reject(problem);
    });
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** How long to wait after an answer that a browser does not come back from by itself, at first and at most. */
const AGAIN = 2000;
const AGAIN_AT_MOST = 30_000;

/**
 * Server-sent events until the signal. `onEvent` gets a name and data, `onLost` is called when the connection is lost, `onFound` when it
 * is there. `again` is asked after an answer that was no stream, or whose stream is over: what it reads tells whether the session has
 * ended, and it says whether to go on.
 */
export function watch(path, signal, { onEvent, onLost, onFound, again }) {
  let source = null;
  let timer = null;
  let pause = AGAIN;
  let isLost = false;
  const later = () => {
    timer = setTimeout(async () => {
      let goesOn = true;
      try {
        goesOn = await again();
      } catch {
        // The server is away, or has too much to do: the next turn asks again.
      }
      if (signal.aborted || !goesOn) return;
      open();
    }, pause);
    pause = Math.min(2 * pause, AGAIN_AT_MOST);
  };
  const open = () => {
    source = new EventSource(path);
    for (const name of ["queue", "status"]) {
      source.addEventListener(name, (event) => onEvent(name, JSON.parse(event.data)));
    }
    source.addEventListener("problem", (event) => onEvent("problem", event.data));
    source.addEventListener("open", () => {
      pause = AGAIN;
      // A stream carries no token: what comes again may be another session's.
      if (isLost) session.check().catch(() => {});
      isLost = false;
      onFound();
    });
    source.addEventListener("error", () => {
      if (signal.aborted) return;
      isLost = true;
      onLost();
      // Otherwise the browser comes again by itself, and says which event was the last.
      if (source.readyState === EventSource.CLOSED) later();
    });
  };
  if (signal.aborted) return;
  open();
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    source.close();
  });
}

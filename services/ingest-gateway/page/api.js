// The API, as the page uses it: the cookie says who asks, and the token goes with what changes something.

let csrf = "new";

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

async function send(method, path, options) {
  let response;
  try {
    response = await fetch(path, { method, credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    // Whoever asked has gone on to something else.
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "the server cannot be reached");
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401 && !path.endsWith("/session")) window.dispatchEvent(new Event("signed-out"));
  throw problem;
}

/** Reads JSON. */
export async function get(path, signal) {
  return (await send("GET", path, { signal })).json();
}

/** Changes something; answers what came back, if anything did. */
export async function change(method, path, body) {
  const headers = { "riacho-csrf": csrf };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await send(method, path, { headers, body: body === undefined ? undefined : JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

function signedIn(session) {
  csrf = session.csrf;
  return session;
}

export const session = {
  /** Who is signed in; null where nobody is. */
  async look() {
    const response = await send("GET", "/api/v1/session", {});
    return response.status === 204 ? null : signedIn(await response.json());
  },
  async begin(key) {
    csrf = "new";
    return signedIn(await change("POST", "/api/v1/session", { key }));
  },
  async end() {
    await change("DELETE", "/api/v1/session");
    csrf = "new";
  },
};

/** A query string of what is set. */
export function query(fields) {
  const set = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

/** Uploads a file and tells how far it is, from 0 to 1. */
export function upload(file, fields, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
    form.append("file", file, file.name);
    request.open("POST", "/api/v1/documents");
    request.setRequestHeader("riacho-csrf", csrf);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener("error", () => reject(new Problem(0, "unreachable", "the upload broke off")));
    request.addEventListener("load", () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // Told below.
      }
      if (request.status === 202) resolve(body);
      else reject(new Problem(request.status, body.code, body.detail ?? `the server answered ${request.status}`));
    });
    request.send(form);
  });
}

/** How long to wait after an answer that a browser does not come back from by itself. */
const AGAIN = 3000;

/** Server-sent events until the signal; `onEvent` gets a name and data, `onLost` is called while there is no connection. */
export function watch(path, signal, onEvent, onLost) {
  let source = null;
  let timer = null;
  const open = () => {
    source = new EventSource(path);
    for (const name of ["queue", "status"]) {
      source.addEventListener(name, (event) => onEvent(name, JSON.parse(event.data)));
    }
    source.addEventListener("problem", (event) => onEvent("problem", event.data));
    source.addEventListener("error", () => {
      onLost();
      if (source.readyState !== EventSource.CLOSED) return;
      // Where the session has ended, this asks for the key again; where the document has, nothing more comes.
      timer = setTimeout(() => get("/api/v1/session").then(open, () => { timer = setTimeout(open, AGAIN); }), AGAIN);
    });
  };
  open();
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    source.close();
  });
}

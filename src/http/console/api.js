// Asking the instance: JSON, the stream of transitions, the token. Addresses are relative: a proxy may add a prefix.

let token = sessionStorage.getItem("ebbtide-token") ?? "";
let askForToken = () => {};

/** Called whenever the instance refuses the token that we have. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Remembers the token until the tab is closed. */
export function setToken(value) {
  token = value;
  sessionStorage.setItem("ebbtide-token", value);
}

/** An answer that is no success: problem details (RFC 9457), or a network failure with status 0. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
    this.title = title;
  }
}

async function ask(path, options) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "The instance does not answer.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) askForToken();
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, problem.title ?? answer.statusText, problem.detail ?? "");
}

/** One JSON document. Gives up after ten seconds. */
export async function get(path) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 10_000);
  try {
    return await (await ask(path, { signal: stop.signal })).json();
  } catch (error) {
    if (error.name === "AbortError") throw new Problem(0, "No answer", "The instance took more than ten seconds.");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Server-sent events through fetch, because EventSource can send no token. Calls `open` once, then `message(type, data)`
 * for each event, until the stream ends (returns) or breaks (throws).
 */
export async function events(path, signal, open, message) {
  const answer = await ask(path, { signal });
  open();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      let type = "message";
      let data = "";
      for (const line of part.split("\n")) {
        if (line.startsWith("event:")) type = line.slice(6).trim();
        else if (line.startsWith("data:")) data += line.slice(5).trimStart();
      }
      if (data) message(type, JSON.parse(data));
    }
  }
}

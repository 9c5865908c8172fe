// Transitions as they happen. The instance sends at most a hundred a second, and the page keeps the last two hundred.

import { events } from "./api.js";
import { cell, count, el, find, moment, say, state, words } from "./dom.js";
import { lookUp } from "./user.js";

const ROWS_MAX = 200;

const list = find("stream");
const note = find("live-note");
const pause = find("pause");
const form = find("filters");

let stop = null;
let retry = 0;
let seen = 0;
let skipped = 0;
let waiting = [];

export function row(transition) {
  const user = el("button", { type: "button", class: "link" }, transition.user_id);
  user.addEventListener("click", () => lookUp(transition.user_id));
  const why = transition.kind === "reactivated" && transition.away_days !== undefined
    ? `reactivated after ${transition.away_days.toFixed(1)} days away`
    : `${words(transition.kind)}: ${words(transition.reason)}`;
  return el("tr", { role: "row" }, cell("time", moment(transition.effective_at)), cell("who", user),
    cell("from", state(transition.from, "new")), cell("to", state(transition.to)), cell("why", why));
}

/** Events come in bursts; the page is touched once a frame. */
function paint() {
  const rows = waiting.slice(-ROWS_MAX).reverse().map(row);
  waiting = [];
  list.prepend(...rows);
  while (list.rows.length > ROWS_MAX) list.lastElementChild.remove();
  status();
}

function status() {
  const more = skipped ? `; ${count(skipped)} more came faster than a page can show` : "";
  const text = seen ? `${count(seen)} shown${more}.` : "Connected: nothing has matched yet.";
  say(note, text);
}

function query() {
  const fields = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) fields.set(name, value.trim());
  return fields.size ? `v1/transitions?${fields}` : "v1/transitions";
}

async function run() {
  stop?.abort();
  const mine = new AbortController();
  stop = mine;
  while (!mine.signal.aborted) {
    try {
      await events(query(), mine.signal, () => {
        retry = 0;
        seen = 0;
        skipped = 0;
        // What an earlier choice of filters left for the next frame does not belong under this one.
        waiting = [];
        list.replaceChildren();
        status();
      }, (type, data) => {
        if (mine.signal.aborted) return;
        if (type === "skipped") skipped += data.count;
        else if (type === "transition") {
          seen += 1;
          if (waiting.push(data) === 1) requestAnimationFrame(paint);
        }
      });
    } catch (problem) {
      if (mine.signal.aborted) return;
      say(note, `${problem.message} Trying again.`, "bad");
    }
    if (mine.signal.aborted) return;
    retry = Math.min(retry + 1, 5);
    await new Promise((resolve) => setTimeout(resolve, 1000 * 2 ** retry));
  }
}

/** Begins to listen; returns what begins anew (another token). */
export function startStream() {
  const halt = (text) => {
    stop?.abort();
    stop = null;
    say(note, text);
  };
  const paused = () => pause.getAttribute("aria-pressed") === "true";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    pause.setAttribute("aria-pressed", "false");
    run();
  });
  form.addEventListener("change", (event) => {
    if (event.target.matches("select")) form.requestSubmit();
  });
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!paused()));
    if (paused()) halt("Paused.");
    else run();
  });
  document.addEventListener("visibilitychange", () => {
    if (paused()) return;
    if (document.hidden) halt("Paused while the page is hidden.");
    else if (!stop) run();
  });
  run();
  return run;
}

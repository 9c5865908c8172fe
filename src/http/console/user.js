// One user: the state, why, what comes next, and the latest transitions that this instance remembers.

import { get } from "./api.js";
import { count, el, find, moment, say, state, words } from "./dom.js";

const form = find("lookup");
const person = find("person");
let latest = 0;

/** Looks a user up and brings the section into view. */
export function lookUp(userId) {
  form.elements.user.value = userId;
  form.requestSubmit();
  find("user").scrollIntoView({ block: "nearest" });
}

export function startLookup() {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const userId = form.elements.user.value;
    const turn = ++latest;
    message(`Looking up ${userId} …`);
    try {
      const user = await get(`v1/users/${encodeURIComponent(userId)}`);
      if (turn === latest) show(user);
    } catch (problem) {
      if (turn === latest) message(problem.message, problem.status === 404 ? "" : "bad");
    }
  });
}

function message(text, tone = "") {
  const note = el("p", { class: "note" });
  say(note, text, tone);
  person.replaceChildren(note);
}

function show(user) {
  const facts = [
    ["Why", user.why],
    ["Since", user.since && moment(user.since)],
    ["Next", user.next && el("span", {}, state(user.next.state), " ", moment(user.next.at), ` (${words(user.next.reason)})`)],
    ["Last active", user.last_active_at && moment(user.last_active_at)],
    ["First active", user.first_active_at && moment(user.first_active_at)],
    ["Activated", user.activated_at ? moment(user.activated_at) : "never"],
    ["Activity", user.state && `${count(user.total_events)} events, ${count(user.core_actions)} core actions`],
    ["Last events", user.last_events?.join(" → ")],
    ["P(alive)", user.p_alive?.toFixed(3)],
    ...Object.entries(user.properties).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
    ["Shard", String(user.partition)],
  ].filter(([, value]) => value);
  const steps = user.recent_transitions.map((step) => el("li", {}, moment(step.effective_at), " ",
    state(step.from, "new"), el("span", { class: "arrow" }, "→"), state(step.to),
    ` ${words(step.kind)}: ${words(step.reason)}`)).reverse();
  person.replaceChildren(
    el("p", { class: "verdict" }, user.user_id, " ", user.state ? state(user.state) : "no lifecycle yet"),
    el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    el("h3", {}, "Latest transitions"),
    steps.length
      ? el("ol", { class: "steps", tabindex: "0", "aria-label": "Latest transitions, newest first" }, ...steps)
      : el("p", { class: "note" }, "None since this instance started; the whole history is in the transitions topic."),
  );
}

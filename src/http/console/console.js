// The page: what is asked how often. Never two requests within a second, and none while the page is hidden.

import { get, onTokenNeeded, setToken } from "./api.js";
import { showCohorts, showFlows, showHistory, redrawHistory } from "./cohorts.js";
import { find, say } from "./dom.js";
import { showShards } from "./shards.js";
import { startStream } from "./stream.js";
import { startLookup } from "./user.js";

const APART_MS = 1050;
const connection = find("connection");

const questions = [];
let asked = 0;
let timer;

/** Asks `path()` every `seconds`, shows the answer, and says below the section what failed. Returns what asks at once. */
function every(seconds, path, show, note) {
  const question = { seconds, path, show, note, due: 0, turn: 0 };
  questions.push(question);
  return () => ask(question);
}

async function ask(question) {
  const { seconds, path, show, note } = question;
  const turn = ++question.turn;
  asked = performance.now();
  question.due = asked + 1000 * seconds;
  try {
    const answer = await get(path());
    // A later question, such as one for another period, has its own answer.
    if (turn !== question.turn) return;
    show(answer);
    say(connection, "Live", "good");
  } catch (problem) {
    say(find(note), `${problem.message} Trying again.`, "bad");
    say(connection, problem.status ? problem.title : "No answer", "bad");
  }
}

/** Waits for the question that is due first, and for a second since the last one. */
function pace() {
  clearTimeout(timer);
  if (document.hidden) return;
  const next = questions.reduce((first, other) => (other.due < first.due ? other : first));
  const at = Math.max(next.due, asked + APART_MS);
  timer = setTimeout(async () => {
    await ask(next);
    pace();
  }, Math.max(0, at - performance.now()));
}

const historyPeriod = find("history-period");
const flowsPeriod = find("flows-period");

const turns = [
  every(3, () => "v1/cohorts", showCohorts, "cohorts-note"),
  every(10, () => `v1/cohorts/history?period=${historyPeriod.value}`, showHistory, "history-note"),
  every(8, () => `v1/flows?period=${flowsPeriod.value}`, showFlows, "flows-note"),
  every(5, () => "v1/shards", showShards, "shards-note"),
];
historyPeriod.addEventListener("change", turns[1]);
flowsPeriod.addEventListener("change", turns[2]);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawHistory);

document.addEventListener("visibilitychange", pace);
// The beginning is no idle page: everything at once.
const all = () => Promise.all(turns.map((turn) => turn()));
all().then(pace);

const restartStream = startStream();
startLookup();

const tokenForm = find("token-form");
onTokenNeeded(() => {
  tokenForm.hidden = false;
});
tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(find("token").value.trim());
  tokenForm.hidden = true;
  all();
  restartStream();
});

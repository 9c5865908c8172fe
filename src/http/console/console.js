// The page: what is asked how often. All together less than one request a second, and none while the page is hidden.

import { get, onTokenNeeded, setToken } from "./api.js";
import { showCohorts, showFlows, showHistory, redrawHistory } from "./cohorts.js";
import { find, say } from "./dom.js";
import { showShards } from "./shards.js";
import { startStream } from "./stream.js";
import { startLookup } from "./user.js";

const connection = find("connection");

/** Asks `path()` every `seconds`, shows the answer, and says below the section what failed. */
function every(seconds, path, show, note) {
  let timer;
  let running = false;
  let again = false;
  async function turn() {
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    if (document.hidden) return;
    running = true;
    try {
      show(await get(path()));
      connection.dataset.tone = "good";
      say(connection, "Live", "good");
    } catch (problem) {
      say(find(note), `${problem.message} Trying again.`, "bad");
      say(connection, problem.status ? problem.title : "No answer", "bad");
    } finally {
      running = false;
    }
    if (again) {
      again = false;
      turn();
      return;
    }
    timer = setTimeout(turn, 1000 * seconds);
  }
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
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
  for (const turn of turns) turn();
  restartStream();
});

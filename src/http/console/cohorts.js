// Cohort sizes now and over time, and the flow between states.

import { STATES, compact, count, el, find, moment, percent, say, state, words } from "./dom.js";

const tiles = find("tiles");

/** One tile a state: size, share, and how many of them never activated. */
export function showCohorts(answer) {
  const all = answer.users;
  const rows = STATES.map((name) => {
    const of = (activated) =>
      answer.cohorts.find((cohort) => cohort.state === name && cohort.activated === activated)?.users ?? 0;
    return { name, size: of(true) + of(false), never: of(false) };
  });
  tiles.replaceChildren(
    tile("all", "all users", count(all), `${count(answer.not_entered)} more known by properties alone`),
    ...rows.map(({ name, size, never }) =>
      tile(name, words(name), count(size), `${percent(size, all)} · ${count(never)} never activated`)),
  );
  tiles.setAttribute("aria-busy", "false");
  const { here, counted, of } = answer.shards;
  let text = "";
  if (of === null) text = "This instance has not joined its group yet.";
  else if (answer.partial) {
    text = `${answer.missing.length} of the group's ${of} shards are missing: sizes are too small. ${answer.failures.join("; ")}`;
  } else if (all === 0) text = "No user yet: waiting for the first event.";
  else if (here < of) text = `All ${counted} shards of the group, ${here} of them here, as of the last commit.`;
  else text = `All ${here} shards, as of the last commit.`;
  say(find("cohorts-note"), text, answer.partial ? "warn" : "");
}

function tile(name, title, size, part) {
  return el("div", { class: "tile", "data-state": name },
    el("dt", {}, title), el("dd", { class: "size", "data-size": name }, size), el("dd", { class: "part" }, part));
}

let chart = null;
let last = null;
const dashes = { active: [], at_risk: [10, 4], lapsed: [4, 4], churned: [2, 5] };

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour of the style sheet as the canvas takes it: `light-dark()` is resolved by an element that uses it. */
function colour(name) {
  const probe = find("chart");
  probe.style.setProperty("outline-color", `var(${name})`);
  const resolved = getComputedStyle(probe).outlineColor;
  probe.style.removeProperty("outline-color");
  return resolved || variable(name);
}

/** The drawing is as high as the style sheet wants the box at least; the legend comes below. */
function size() {
  const box = find("chart");
  return { width: Math.max(box.clientWidth, 200), height: Math.max(parseInt(getComputedStyle(box).minHeight, 10), 160) };
}

const clock = (options) => {
  const format = new Intl.DateTimeFormat(undefined, options);
  return (seconds) => format.format(1000 * seconds);
};
const TICKS = [
  [60, clock({ hour: "2-digit", minute: "2-digit", second: "2-digit" })],
  [86_400, clock({ hour: "2-digit", minute: "2-digit" })],
  [Infinity, clock({ month: "short", day: "numeric" })],
];
const exact = clock({ month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The legend tells the values below the pointer, or else the latest. */
function legend(drawn) {
  drawn.setLegend({ idx: drawn.cursor.idx ?? drawn.data[0].length - 1 });
}

function draw(data) {
  const text = colour("--quiet");
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: text, grid, ticks: grid };
  chart?.destroy();
  chart = new uPlot({
    ...size(),
    cursor: { drag: { x: false, y: false }, bind: { mouseleave: (drawn, _, leave) => (event) => { leave(event); legend(drawn); } } },
    // Once uPlot has done with its cursor, which empties the legend.
    hooks: { draw: [(drawn) => setTimeout(legend, 0, drawn)] },
    legend: { live: true },
    scales: { y: { range: (_, __, high) => [0, Math.max(high * 1.05, 1)] } },
    axes: [
      { ...axis, space: 64, values: (_, ticks, __, ___, step) => ticks.map(TICKS.find(([below]) => step < below)[1]) },
      { ...axis, size: 56, values: (_, ticks) => ticks.map(compact) },
    ],
    series: [
      { label: "at", value: (_, value) => (value === null ? "–" : exact(value)) },
      ...STATES.map((name) => ({
        label: words(name), stroke: colour(`--${name}`), width: 2, dash: dashes[name], points: { show: data[0].length < 2 },
        value: (_, value) => (value === null ? "–" : count(value)),
      })),
    ],
  }, data, find("chart"));
}

export function showHistory(answer) {
  const note = find("history-note");
  if (answer.points.length === 0) {
    say(note, "Nothing to draw yet: the first point comes within seconds.");
    return;
  }
  const data = [
    answer.points.map((point) => Date.parse(point.at) / 1000),
    ...STATES.map((name) => answer.points.map((point) => point[name])),
  ];
  last = data;
  if (chart) chart.setData(data);
  else draw(data);
  const ends = answer.points.at(-1);
  find("chart").setAttribute("aria-label",
    `Cohort sizes over time; now ${STATES.map((name) => `${words(name)} ${count(ends[name])}`).join(", ")}`);
  note.replaceChildren("Since ", moment(answer.points[0].at), "; kept in memory, so it begins with the process.");
  note.dataset.tone = "";
}

/** Another colour scheme: the canvas has to be painted again. */
export function redrawHistory() {
  if (last) draw(last);
}

new ResizeObserver(() => chart?.setSize(size())).observe(find("chart"));

/** The matrix: rows are where users came from, columns where they went. */
export function showFlows(answer) {
  const table = find("flow-table");
  const ends = [...STATES, null];
  const moved = new Map(answer.flows.map((flow) => [`${flow.from}>${flow.to}`, flow.users]));
  const most = Math.max(1, ...moved.values());
  const cell = (from, to) => {
    const users = moved.get(`${from}>${to}`) ?? 0;
    const td = el("td", { class: users ? "moved" : "still" }, users ? count(users) : "·");
    td.style.setProperty("--share", Math.sqrt(users / most));
    return td;
  };
  table.tHead?.remove();
  table.tBodies[0]?.remove();
  table.append(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from \\ to"),
      ...ends.map((to) => el("th", { scope: "col" }, state(to))))),
    el("tbody", {}, ...ends.map((from) => el("tr", {}, el("th", { scope: "row" }, state(from, "new")),
      ...ends.map((to) => cell(from, to))))),
  );
  const note = find("flows-note");
  if (answer.flows.length === 0) say(note, "Nobody changed state in this period.");
  else {
    note.replaceChildren("Since ", moment(answer.from), answer.complete ? "." : ", when this process began.");
    note.dataset.tone = "";
  }
}

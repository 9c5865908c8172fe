// Making elements and words. Text goes in as text nodes only: user ids and properties come from outside.

/** An element with attributes and children. `data` attributes are given as `data-…`. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

export const STATES = ["active", "at_risk", "lapsed", "churned"];

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);
export const compact = (number) => short.format(number);
export const words = (name) => name.replaceAll("_", " ");

export function percent(part, all) {
  if (!all) return "0 %";
  const share = (100 * part) / all;
  return `${share > 0 && share < 0.1 ? "<0.1" : share.toFixed(share < 10 ? 1 : 0)} %`;
}

/**
 * A cell of a table that narrow pages show as cards: its class places it, `data-label` is shown where the head is not, and
 * the role keeps it a cell whatever the style sheet makes of it.
 */
export function cell(kind, ...children) {
  return el("td", { role: "cell", class: kind }, ...children);
}

/** A state with its colour; `null` is nobody's state: before entering, or gone. */
export function state(name, outside = "gone") {
  return el("span", { class: "state", "data-state": name ?? "none" }, name ? words(name) : outside);
}

/** A moment as the reader's clock shows it, with the exact UTC time on hover. */
export function moment(text) {
  if (!text) return el("span", {}, "–");
  const date = new Date(text);
  const sameYear = date.getFullYear() === new Date().getFullYear();
  const shown = date.toLocaleString(undefined, {
    year: sameYear ? undefined : "numeric", month: "short", day: "numeric",
    hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  return el("time", { datetime: text, title: text }, shown);
}

/** A length of time in one unit, at most three figures. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const size = Math.abs(seconds);
  for (const [unit, length] of [["d", 86_400], ["h", 3600], ["min", 60]]) {
    if (size >= 2 * length) return `${(seconds / length).toFixed(size < 20 * length ? 1 : 0)} ${unit}`;
  }
  return `${seconds.toFixed(size < 10 ? 1 : 0)} s`;
}

/** Says something below a section; the tone is for errors and warnings. */
export function say(note, text, tone = "") {
  if (note.textContent !== text) note.textContent = text;
  note.dataset.tone = tone;
}

// Shards: owner, lag, watermark, and whether the silence guard holds.

import { cell, count, el, find, moment, say, span, words } from "./dom.js";

export function showShards(answer) {
  const rows = answer.shards.map((shard) => el("tr", { role: "row" },
    labelled("Shard", "", String(shard.partition)),
    labelled("Owner", "", `${answer.instance_id} / ${shard.worker}`),
    labelled("Phase", "", phase(shard)),
    labelled("Lag", "number", shard.lag === null ? "–" : count(shard.lag)),
    labelled("Watermark", "", shard.watermark ? moment(shard.watermark) : "–",
      shard.watermark_lag_seconds === null ? null : ` (${span(shard.watermark_lag_seconds)} behind)`),
    labelled("Silence guard", "", shard.guard_holds ? "holds" : "–"),
    labelled("Users", "number", count(shard.users)),
  ));
  if (rows.length === 0) rows.push(el("tr", {}, el("td", { colspan: "7" }, "This instance holds no shard yet.")));
  find("shard-rows").replaceChildren(...rows);
  const held = answer.shards.filter((shard) => shard.guard_holds).length;
  const guard = find("guard");
  guard.hidden = held === 0;
  if (held) {
    say(guard, `The silence guard holds ${held} of ${answer.shards.length} shards: no event has come for longer than
      time.silence_guard, so nobody is declared gone until one does.`, "warn");
  }
  const of = answer.of === null ? "" : ` of ${answer.of}`;
  say(find("shards-note"), `${answer.shards.length}${of} shards here`);
}

function labelled(label, kind, ...children) {
  const made = cell(kind, ...children);
  made.dataset.label = label;
  return made;
}

function phase(shard) {
  const { done, total } = shard.restored;
  return shard.phase === "restoring" ? `restoring ${count(done)} of ${count(total)}` : words(shard.phase);
}

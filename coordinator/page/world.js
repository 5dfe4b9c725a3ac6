// World: from four trainers to a thousand and more: figures of the whole, who stands out, a map and a table.

import { el, fact, say, throttled } from "./dom.js";
import { duration, integer, isKnown, megabytes, milliseconds, number, percent } from "./format.js";
import { on, state } from "./state.js";
import { ACTIVITIES, nameOf, rows, standouts, summary } from "./trainers.js";
import { COLOURINGS, WorldMap } from "./world-map.js";
import { WorldTable } from "./world-table.js";

const NAMED = 12;

export function mount(panel) {
  let awake = false;
  let all = [];
  let picked = -1;
  const list = el("dl", { class: "facts", id: "world-summary", "data-testid": "world-summary" });
  const there = fact(list, "Trainers", "world-trainers");
  const step = fact(list, "Step, median to slowest", "world-step");
  const own = fact(list, "Own work, median to slowest", "world-own");
  const wait = fact(list, "Waiting, median to most", "world-wait");
  const silent = fact(list, "Longest silent", "world-silent");
  const memory = fact(list, "Memory", "world-memory");
  const stand = el("ul", { class: "standouts", id: "standouts", "data-testid": "standouts" });
  const standing = el("p", { class: "quiet", "data-testid": "standouts-none" }, "Nobody stands out.");
  const facts = el("p", { class: "map-facts", id: "map-facts", "data-testid": "map-facts", "aria-live": "polite" }, "Point at a trainer, or focus the map and use the arrow keys.");
  const map = new WorldMap({ onpick: (index) => {
    picked = index;
    tell();
  } });
  const colouring = el("select", { id: "map-colour", "data-testid": "map-colour", on: { change: (event) => map.colourBy(event.target.value) } }, Object.entries(COLOURINGS).map(([key, { name }]) => el("option", { value: key }, name)));
  const table = new WorldTable();
  const filter = el("input", { type: "search", id: "world-filter", "data-testid": "world-filter", placeholder: "rank, host, device, node", autocomplete: "off" });
  const activity = el("select", { id: "world-activity", "data-testid": "world-activity" }, el("option", { value: "" }, "any"), ACTIVITIES.map((name, code) => el("option", { value: code }, name)));
  const narrow = () => table.filter(filter.value, activity.value);
  filter.addEventListener("input", narrow);
  activity.addEventListener("change", narrow);
  const empty = el("p", { class: "nothing" }, "No trainers yet. They appear when they join.");
  const body = el("div", {},
    list,
    el("section", { class: "standing", "aria-labelledby": "standouts-title" }, el("h2", { id: "standouts-title" }, "Standing out"), standing, stand),
    el("section", { "aria-labelledby": "map-title" },
      el("div", { class: "head-row" }, el("h2", { id: "map-title" }, "Map"), el("label", { class: "slide", for: "map-colour" }, "Colour", colouring), map.legend),
      map.root, facts),
    el("section", { "aria-labelledby": "table-title" },
      el("div", { class: "head-row" }, el("h2", { id: "table-title" }, "Table"), el("label", { class: "slide", for: "world-filter" }, "Find", filter), el("label", { class: "slide", for: "world-activity" }, "Activity", activity), table.count),
      table.box));
  panel.append(empty, body);

  function tell() {
    const row = all[picked];
    if (!row) return say(facts, "Point at a trainer, or focus the map and use the arrow keys.");
    const parts = [
      `rank ${row.rank}`, `${row.host}, node ${row.node}, local rank ${row.local}`, row.device, row.pid ? `process ${row.pid}` : null, `lanes ${row.lanes}`,
      `${ACTIVITIES[row.activity] ?? "unknown"} for ${duration(row.seconds)}`, `step ${milliseconds(row.step)}, of it waiting ${milliseconds(row.wait)} (${percent(row.share, 0)})`,
      `heard ${duration(row.silent)} ago`, `memory ${megabytes(row.resident)}`, isKnown(row.memory) ? `device memory ${megabytes(row.memory)}${isKnown(row.memoryAll) ? ` of ${megabytes(row.memoryAll)}` : ""}` : null];
    say(facts, parts.filter(Boolean).join(" · "));
  }

  const named = throttled(2000, (found) => {
    standing.hidden = found.length > 0;
    const items = found.slice(0, NAMED).map(({ row, why, value, median }) => (why === "silent" ? [nameOf(row), `not heard of for ${duration(value)}`, "silent"] : [nameOf(row), `works ${number(value, 2)} times as long as the median: ${milliseconds(row.own)} against ${milliseconds(median)}`, "slow"]));
    stand.replaceChildren(
      ...items.map(([name, text, why]) => el("li", { "data-why": why }, el("strong", {}, name), " ", text)),
      ...(found.length > NAMED ? [el("li", { class: "quiet" }, `and ${integer(found.length - NAMED)} more: sort the table by Own or Silent`)] : []));
  });

  function show() {
    if (!awake) return;
    const { world, pulse } = state;
    all = rows(world, pulse);
    empty.hidden = all.length > 0;
    body.hidden = all.length === 0;
    if (all.length === 0) return;
    const figures = summary(all);
    say(there, `${integer(all.length)}${world.expected > all.length ? ` of ${integer(world.expected)}` : ""} on ${integer(figures.nodes)} ${figures.nodes === 1 ? "node" : "nodes"}`);
    const pair = (spread) => !isKnown(spread[1]) ? "–" : `${milliseconds(spread[1])} to ${milliseconds(spread[3])}`;
    say(step, pair(figures.step));
    say(own, pair(figures.own));
    say(wait, pair(figures.wait));
    say(silent, figures.silentest ? `${duration(figures.silentest.silent)}, rank ${figures.silentest.rank}` : "–");
    say(memory, `${megabytes(figures.resident)}${figures.memory === null ? "" : `, devices ${megabytes(figures.memory)}`}`);
    named(standouts(all));
    map.set(all);
    table.set(all);
    if (picked >= 0 && !map.root.matches(":focus")) tell();
  }

  on("pulse", show);
  on("world", show);
  return {
    show() {
      awake = true;
      show();
    },
    hide() {
      awake = false;
    },
  };
}

// History: every generation with its reason, and all events: filtered by kind and text, older ones on demand, new ones as they happen.

import { get } from "./api.js";
import { el, say } from "./dom.js";
import { integer, moment } from "./format.js";
import { on } from "./state.js";

const PAGE = 200;
/** More than this are let go of again while new ones come; `Older events` brings them back. */
const KEPT = 2000;
/** Kinds that are there from the start; others join as they are seen. */
const KINDS = ["generation", "joined", "lost", "halt", "checkpoint", "warning"];
const SERIOUS = new Set(["lost", "corruption", "guard", "back", "halt", "warning"]);

function item(event) {
  const about = [Number.isFinite(event.step) ? `step ${integer(event.step)}` : null, Number.isFinite(event.generation) ? `generation ${integer(event.generation)}` : null, Number.isFinite(event.rank) ? `rank ${event.rank}` : null, Number.isFinite(event.node) ? `node ${event.node}` : null].filter(Boolean).join(" · ");
  const date = moment(event.time);
  return el("li", { "data-kind": event.kind, "data-serious": SERIOUS.has(event.kind) },
    el("time", { title: date, datetime: Number.isFinite(event.time) ? new Date(event.time * 1000).toISOString() : null }, date),
    el("span", { class: "kind" }, event.kind ?? ""),
    el("p", {}, event.text ?? "", el("span", { class: "quiet small about" }, about)));
}

export function mount(panel) {
  let events = [];
  let more = false;
  let awake = false;
  let stale = true;
  let turn = 0;
  const kinds = new Set();
  const chosen = new Set();
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Kinds of events" });
  const text = el("input", { type: "search", id: "event-text", "data-testid": "event-text", placeholder: "text, rank, step", autocomplete: "off" });
  const count = el("span", { class: "quiet small", role: "status", "data-testid": "event-count" });
  const list = el("ol", { class: "events", id: "events", "data-testid": "events" });
  const past = el("ol", { class: "events generations", id: "generations", "data-testid": "generations" });
  const older = el("button", { type: "button", id: "load-older", "data-testid": "load-older", hidden: true, on: { click: () => load(true) } }, "Older events");
  const none = el("p", { class: "nothing" }, "No events.");
  panel.append(
    el("div", { class: "split history-split" },
      el("section", { class: "stage", "aria-labelledby": "events-title" }, el("div", { class: "head-row" }, el("h2", { id: "events-title" }, "Events"), el("label", { class: "slide", for: "event-text" }, "Find", text), count), chips, list, none, older),
      el("section", { class: "side", "aria-labelledby": "generations-title" }, el("h2", { id: "generations-title" }, "Generations"), el("p", { class: "quiet small" }, "Anyone joining or dying ends a generation; the next opens with its reason."), past)));

  function offer(kind) {
    if (!kind || kinds.has(kind)) return;
    kinds.add(kind);
    const chip = el("button", { type: "button", class: "chip", id: `kind-${kind}`, "data-testid": `kind-${kind}`, "aria-pressed": "false", on: { click: () => {
      if (!chosen.delete(kind)) chosen.add(kind);
      chip.setAttribute("aria-pressed", String(chosen.has(kind)));
      events = [];
      load(false);
    } } }, kind);
    chips.append(chip);
  }

  const matches = (event) => {
    const wanted = text.value.trim().toLowerCase();
    return (chosen.size === 0 || chosen.has(event.kind)) && (wanted === "" || `${event.kind} ${event.text} rank ${event.rank} step ${event.step} ${event.step}`.toLowerCase().includes(wanted));
  };

  function show() {
    const shown = events.filter(matches);
    list.replaceChildren(...shown.map(item));
    none.hidden = shown.length > 0;
    say(none, events.length === 0 ? "No events yet." : "No loaded event has this text.");
    older.hidden = !more;
    say(count, `${integer(shown.length)}${text.value.trim() ? ` of ${integer(events.length)} loaded` : ""}${more ? ", older ones not loaded" : ""}`);
  }

  async function load(further) {
    const mine = ++turn;
    stale = false;
    const query = new URLSearchParams({ limit: PAGE });
    if (chosen.size > 0) query.set("kind", [...chosen].join(","));
    if (further && events.length > 0) query.set("before", events.at(-1).id);
    older.disabled = true;
    try {
      const answer = await get(`/api/events?${query}`);
      if (mine !== turn) return;
      events = further ? [...events, ...(answer.events ?? [])] : (answer.events ?? []);
      more = Boolean(answer.more);
      for (const event of events) offer(event.kind);
      show();
    } catch (error) {
      stale = true;
      say(count, error.message);
    } finally {
      older.disabled = false;
    }
  }

  async function loadGenerations() {
    try {
      const generations = (await get(`/api/events?kind=generation&limit=${PAGE}`)).events ?? [];
      past.replaceChildren(...generations.map(item));
    } catch {
      stale = true;
    }
  }

  function generation(event) {
    if (event.kind === "generation") past.prepend(item(event));
  }

  KINDS.forEach(offer);
  text.addEventListener("input", show);
  on("event", (event) => {
    if (stale || events.some(({ id }) => id === event.id)) return;
    offer(event.kind);
    if (chosen.size > 0 && !chosen.has(event.kind)) return generation(event);
    events.unshift(event);
    if (events.length > KEPT) {
      if (matches(events.pop())) list.lastElementChild?.remove();
      more = true;
      older.hidden = false;
    }
    if (matches(event)) {
      list.prepend(item(event));
      none.hidden = true;
      say(count, `${integer(list.children.length)}${more ? ", older ones not loaded" : ""}`);
    }
    generation(event);
  });
  const reload = () => {
    stale = true;
    if (awake) load(false).then(loadGenerations);
  };
  on("refresh", reload);
  return {
    show() {
      awake = true;
      if (stale) reload();
    },
    hide() {
      awake = false;
    },
  };
}

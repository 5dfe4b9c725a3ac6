// Manifest: the configuration in force, and what ran on what.

import { announce, el, table } from "./dom.js";
import { integer, moment } from "./format.js";
import { on, state } from "./state.js";

const TRAINERS_SHOWN = 64;

function copy(id, what, text) {
  return el("button", { type: "button", id, "data-testid": id, on: { click: async (event) => {
    const button = event.currentTarget;
    const name = button.textContent;
    let done = "Copied";
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      done = "Not allowed";
    }
    button.textContent = done;
    announce(`${what}: ${done}`);
    setTimeout(() => (button.textContent = name), 1500);
  } } }, `Copy ${what}`);
}

/** Each line of TOML marked as section, comment or neither; nothing finer is needed to find one's way. */
function lines(text) {
  return text.split("\n").flatMap((line) => {
    const kind = /^\s*\[/.test(line) ? "section" : /^\s*#/.test(line) ? "comment" : null;
    return [kind ? el("span", { class: kind }, line) : line, "\n"];
  });
}

const short = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "–"));
const box = (label, ...children) => el("div", { class: "table-box open", tabindex: 0, role: "region", "aria-label": label }, ...children);

function launches(manifest) {
  const all = Array.isArray(manifest?.launches) ? manifest.launches : [];
  if (all.length === 0) return [el("p", { class: "nothing" }, "No launches noted.")];
  return [...all].reverse().map((launch, i) => {
    const trainers = launch.trainers ?? [];
    const heading = `Launch ${all.length - i}: ${moment(launch.time)}, ${integer(launch.world)} trainers on ${integer(launch.nodes)} ${launch.nodes === 1 ? "node" : "nodes"}, from step ${integer(launch.from_step)}`;
    const part = el("details", { class: "launch", open: i === 0 }, el("summary", {}, heading));
    const rows = (list) => list.map((one) => [one.rank, one.node, one.host, one.device, one.software].map(short));
    const shown = (list) => box(`Trainers of launch ${all.length - i}`, table(`Launch ${all.length - i}`, ["rank", "node", "host", "device", "software"], rows(list), { class: "values text" }));
    part.append(shown(trainers.slice(0, TRAINERS_SHOWN)));
    if (trainers.length > TRAINERS_SHOWN) {
      const button = el("button", { type: "button", on: { click: () => part.replaceChildren(part.firstChild, shown(trainers)) } }, `All ${integer(trainers.length)} trainers`);
      part.append(button);
    }
    return part;
  });
}

export function mount(panel) {
  function show() {
    const { run } = state;
    if (!run) {
      panel.replaceChildren(el("p", { class: "nothing" }, "Nothing is known of the run yet."));
      return;
    }
    const manifest = run.manifest ?? {};
    const facts = [
      ["Run", run.run], ["began", run.began ?? manifest.began], ["Created", moment(manifest.created)], ["Coordinator started", moment(run.started)], ["Steps", integer(run.steps)], ["Lanes", integer(run.lanes)], ["Batch a lane", integer(run.batch)],
      ["Global batch", integer((run.lanes ?? NaN) * (run.batch ?? NaN))], ["Image size", `${short(run.size)} px`], ["γ", short(run.gamma)], ["Seed", short(run.seed ?? manifest.seed)], ["Trainers at launch", integer(run.world)], ["Digest of the data", manifest.data_digest], ["Digest of the configuration", manifest.config_digest]];
    const keys = Object.entries(manifest.keys ?? {});
    const json = JSON.stringify(manifest, null, 2);
    panel.replaceChildren(
      el("h2", {}, "What it is"),
      el("dl", { class: "pairs", id: "facts", "data-testid": "facts" }, facts.filter(([, value]) => value !== undefined && value !== null).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
      el("div", { class: "split even" },
        el("section", { class: "stage", "aria-labelledby": "config-title" }, el("div", { class: "head-row" }, el("h2", { id: "config-title" }, "run.toml"), copy("copy-config", "run.toml", () => run.config ?? "")), el("pre", { id: "run-toml", "data-testid": "run-toml", tabindex: 0, role: "region", "aria-label": "Text of run.toml" }, el("code", {}, lines(run.config ?? "")))),
        el("section", { class: "stage", "aria-labelledby": "keys-title" }, el("div", { class: "head-row" }, el("h2", { id: "keys-title" }, "manifest.json"), copy("copy-manifest", "manifest.json", () => json)),
          el("p", { class: "quiet small" }, "Keys that decide what the run computes, as it began:"),
          keys.length ? box("Keys that decide what the run computes", table("Keys", ["key", "value"], keys.map(([key, value]) => [key, short(value)]), { class: "values text" })) : el("p", { class: "nothing" }, "None noted."),
          el("details", { class: "as-table" }, el("summary", {}, "Show the whole manifest"), el("pre", { tabindex: 0, role: "region", "aria-label": "Text of manifest.json" }, el("code", {}, json))))),
      el("h2", {}, "Launches"),
      el("div", { id: "launches", "data-testid": "launches" }, launches(manifest)),
      el("h2", {}, "For machines"),
      el("p", {}, el("a", { href: "/metrics", id: "link-metrics", "data-testid": "link-metrics" }, "Metrics for Prometheus"), " · ", el("a", { href: "/api/run" }, "This run as JSON"), " · ", el("a", { href: "/api/curves?points=4096" }, "Curves as JSON"), " · ", el("a", { href: "/healthz" }, "Health")));
  }
  on("run", show);
  show();
  return {};
}

// Samples: the sample grids as a film. Follows the newest until somebody scrubs.

import { get } from "./api.js";
import { el, icon, say, throttled } from "./dom.js";
import { Reel } from "./film.js";
import { integer, number, plural } from "./format.js";
import { cellAt, layout, neighbour } from "./grid.js";
import { Link } from "./link.js";
import { Plot } from "./plot.js";
import { on, state } from "./state.js";

const SPEEDS = [1, 2, 4, 8, 16];
const ICONS = {
  first: "M3 2h2v12H3zM13 2v12L6 8z",
  previous: "M11 2v12L4 8z",
  play: "M4 2l9 6-9 6z",
  pause: "M4 2h3v12H4zM9 2h3v12H9z",
  next: "M5 2l7 6-7 6z",
  last: "M11 2h2v12h-2zM3 2l7 6-7 6z",
};
const EXPLAINED = {
  generated: "G(z) of fixed noise: the same 64 noise vectors at every step",
  "real, reconstruction": "a real image x, and D(x) beside it",
  "generated, reconstruction": "a generated image G(z), and D(G(z)) beside it",
};

export function mount(panel) {
  const reel = new Reel();
  let steps = [];
  let diversity = [];
  let at = -1;
  let follow = true;
  let playing = false;
  let timer = 0;
  let plan = null;
  let shown = null;
  let cell = 0;
  let awake = false;
  let stale = true;
  let lookedAt = 0;

  const canvas = el("canvas", { id: "film-canvas", "data-testid": "film-canvas", class: "film", width: 806, height: 530, role: "img", "aria-label": "Sample grid" });
  const mark = el("div", { class: "mark", hidden: true });
  const stage = el("div", { class: "film-stage", tabindex: 0, role: "application", "aria-roledescription": "sample grid", "aria-label": "Sample grid. Arrow keys choose an image, comma and full stop go through the steps, space plays." }, canvas, mark, el("p", { class: "empty" }, "No sample grids yet. The first comes after run.sample_every steps, or when Sample is pressed."));
  const blocks = el("div", { class: "blocks small", "aria-hidden": "true" });
  const slider = el("input", { type: "range", id: "film-slider", "data-testid": "film-slider", min: 0, max: 0, value: 0, "aria-label": "Step of the film" });
  const label = el("output", { id: "film-step", "data-testid": "film-step", class: "film-step", for: "film-slider" }, "–");
  const button = (id, name, click) => el("button", { type: "button", id: `film-${id}`, "data-testid": `film-${id}`, "aria-label": name, title: name, on: { click } }, icon(ICONS[id]));
  const play = button("play", "Play", () => setPlaying(!playing));
  const speed = el("select", { id: "film-speed", "data-testid": "film-speed", "aria-label": "Grids a second" }, SPEEDS.map((value) => el("option", { value, selected: value === 4 }, `${value}/s`)));
  const followBox = el("input", { type: "checkbox", id: "film-follow", "data-testid": "film-follow", checked: true, on: { change: (event) => {
    follow = event.target.checked;
    if (follow) go(steps.length - 1);
  } } });
  const zoomed = el("canvas", { id: "zoomed-image", "data-testid": "zoomed-image", class: "zoomed", width: 64, height: 64, role: "img", "aria-label": "Chosen image" });
  const partner = el("canvas", { class: "zoomed", width: 64, height: 64, role: "img", "aria-label": "Its partner" });
  const zoomText = el("p", { class: "small", "aria-live": "polite" }, "Choose an image in the grid.");
  const explained = el("dl", { class: "explained small" });
  const link = new Link();
  const plot = new Plot({ id: "plot-diversity", title: "Diversity of the grids", link, series: [{ key: "diversity", name: "diversity", colour: "m", dots: true }], range: [0, 1], empty: "Not measured yet." });

  panel.append(
    el("h2", { class: "unseen" }, "Sample grids"),
    el("div", { class: "split film-split" },
      el("div", { class: "stage" },
        el("div", { class: "film-controls", role: "group", "aria-label": "Film" },
          el("div", { class: "row tight" },
            button("first", "First grid", () => scrub(0)),
            button("previous", "Previous grid", () => scrub(at - 1)),
            play,
            button("next", "Next grid", () => scrub(at + 1)),
            button("last", "Newest grid", () => scrub(steps.length - 1))),
          slider, label, speed,
          el("label", { class: "check" }, followBox, "Newest")),
        blocks, stage),
      el("aside", { class: "side", "aria-label": "Chosen image and what the grid shows" },
        el("h2", {}, "One image"), el("div", { class: "pair" }, zoomed, partner), zoomText,
        el("h2", {}, "The blocks"), explained,
        plot.root)),
  );
  const empty = stage.querySelector(".empty");

  function explain() {
    const grid = state.run?.grid;
    if (!grid?.blocks) return;
    explained.replaceChildren(...grid.blocks.map((block) => el("div", {}, el("dt", {}, block.name), el("dd", {}, EXPLAINED[block.name] ?? plural(block.columns, "column")))));
  }

  async function go(to) {
    if (steps.length === 0) return;
    at = Math.min(steps.length - 1, Math.max(0, to));
    slider.value = at;
    const step = steps[at];
    const text = `step ${integer(step)}`;
    slider.setAttribute("aria-valuetext", text);
    say(label, text);
    link.cursor = step;
    plot.change();
    let image;
    try {
      image = await reel.picture(step);
    } catch {
      if (steps[at] === step) say(label, `${text}: not there`);
      return;
    }
    if (steps[at] !== step) return;
    if (canvas.width !== image.naturalWidth || canvas.height !== image.naturalHeight || !plan) {
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      plan = layout(state.run?.grid, canvas.width, canvas.height);
      blocks.replaceChildren(...(plan?.blocks ?? []).map((block) => {
        const node = el("span", {}, block.name);
        node.style.left = `${(block.x / canvas.width) * 100}%`;
        node.style.width = `${(block.width / canvas.width) * 100}%`;
        return node;
      }));
    }
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.setAttribute("aria-label", `Sample grid of ${text}, ${at + 1} of ${steps.length}${Number.isFinite(diversity[at]) ? `, diversity ${number(diversity[at], 2)}` : ""}`);
    shown = image;
    zoom(false);
    reel.ahead([1, 2, 3, -1, -2].map((by) => steps[at + by]).filter((value) => value !== undefined));
  }

  function setFollow(value) {
    follow = value;
    followBox.checked = value;
  }

  /** A person moves the film. */
  function scrub(to) {
    setPlaying(false);
    setFollow(to >= steps.length - 1);
    go(to);
  }

  function setPlaying(value) {
    playing = value && steps.length > 1;
    play.replaceChildren(icon(playing ? ICONS.pause : ICONS.play));
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.title = playing ? "Pause" : "Play";
    clearTimeout(timer);
    if (!playing) return;
    setFollow(false);
    if (at >= steps.length - 1) at = -1;
    tick();
  }

  async function tick() {
    if (!playing || document.hidden) return;
    const began = performance.now();
    await go(at + 1);
    if (at >= steps.length - 1) return setPlaying(false);
    timer = setTimeout(tick, Math.max(0, 1000 / Number(speed.value) - (performance.now() - began)));
  }

  function zoom(spoken) {
    const one = plan?.cells[cell];
    mark.hidden = !one || !shown;
    if (!one || !shown) return;
    for (const [name, value, whole] of [["left", one.x, canvas.width], ["top", one.y, canvas.height], ["width", one.size, canvas.width], ["height", one.size, canvas.height]]) mark.style[name] = `${(value / whole) * 100}%`;
    const draw = (target, from) => {
      target.width = target.height = Math.round(from.size);
      const context = target.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(shown, from.x, from.y, from.size, from.size, 0, 0, target.width, target.height);
      target.setAttribute("aria-label", `${from.name}, row ${from.row + 1}`);
    };
    draw(zoomed, one);
    const other = one.pair ? plan.cells.find((candidate) => candidate.block === one.block && candidate.row === one.row && candidate.column === (one.column ^ 1)) : null;
    partner.hidden = !other;
    if (other) draw(partner, other);
    const text = one.pair ? `${one.name}, row ${one.row + 1}; beside it: ${other?.name ?? "–"}` : `${one.name}, row ${one.row + 1}, column ${one.column + 1}`;
    if (spoken || zoomText.textContent === "Choose an image in the grid.") say(zoomText, text);
  }

  slider.addEventListener("input", () => scrub(Number(slider.value)));
  stage.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const found = cellAt(plan, ((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height);
    if (found < 0) return;
    cell = found;
    zoom(true);
  });
  stage.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (dx === undefined || !plan) return;
    event.preventDefault();
    cell = neighbour(plan, cell, dx, dy);
    zoom(true);
  });
  panel.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, summary, .frame")) return;
    if (event.key === " " && event.target.matches("button, input[type=checkbox]")) return;
    const action = { ",": () => scrub(at - 1), ".": () => scrub(at + 1), Home: () => scrub(0), End: () => scrub(steps.length - 1), " ": () => setPlaying(!playing) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && playing) tick();
  });

  const load = throttled(5000, async () => {
    stale = false;
    let answer;
    try {
      answer = await get("/api/samples");
    } catch {
      stale = true;
      return;
    }
    const before = steps[at];
    steps = answer.steps ?? [];
    diversity = answer.diversity ?? [];
    empty.hidden = steps.length > 0;
    canvas.classList.toggle("blank", steps.length === 0);
    slider.max = Math.max(0, steps.length - 1);
    slider.disabled = steps.length < 2;
    link.setFull(0, Math.max(1, steps.at(-1) ?? 1));
    plot.setData({ x: steps, diversity: { mean: diversity } });
    if (steps.length === 0) return;
    if (follow || before === undefined) go(steps.length - 1);
    else go(steps.includes(before) ? steps.indexOf(before) : at);
  });
  const changed = () => {
    stale = true;
    if (awake) load();
  };
  on("window", changed);
  on("refresh", changed);
  on("ended", changed);
  on("event", (event) => {
    if (/sample|save|checkpoint|control/.test(event.kind ?? "")) changed();
  });
  on("rewind", ({ step }) => {
    lookedAt = 0;
    reel.forget(step);
    changed();
  });
  // Grids come at even distances: look for the next one when its step has gone by.
  on("pulse", (pulse) => {
    const every = steps.length > 1 ? steps.at(-1) - steps.at(-2) : Infinity;
    if (!awake || steps.length === 0 || !(pulse.step > Math.max(steps.at(-1) + every, lookedAt + every / 2))) return;
    lookedAt = pulse.step;
    load();
  });
  on("run", () => {
    explain();
    plan = null;
    if (shown) go(at);
  });
  explain();
  return {
    show() {
      awake = true;
      if (stale) load();
    },
    hide() {
      awake = false;
      setPlaying(false);
    },
  };
}

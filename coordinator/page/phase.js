// Phase: L(x) against L(G(z)), coloured by step, with the line L(G(z)) = gamma L(x) that k steers towards.

import { colour, ramp } from "./colours.js";
import { Curves } from "./curves.js";
import { el, say, table, throttled } from "./dom.js";
import { integer, number } from "./format.js";
import { scale, tickLabels } from "./scale.js";
import { on, state } from "./state.js";
import { Surface } from "./surface.js";

const MARGIN = { left: 64, right: 16, top: 14, bottom: 44 };
const STOPS = 1000;

export function mount(panel) {
  let points = [];
  let picked = -1;
  let places = [];
  let awake = false;
  const curves = new Curves(2000, () => update());
  const canvas = el("canvas", { "aria-hidden": "true" });
  const empty = el("p", { class: "empty" }, "No steps yet.");
  const summary = el("p", { class: "unseen", id: "phase-summary" });
  const frame = el("div", { class: "frame square", id: "phase-chart", "data-testid": "phase-chart", tabindex: 0, role: "application", "aria-roledescription": "chart", "aria-label": "L(G(z)) against L(x). Arrow keys read the points in the order of steps.", "aria-describedby": "phase-summary" }, canvas, empty);
  const facts = el("output", { class: "pick", "data-testid": "phase-point" }, "–");
  const spoke = el("p", { class: "unseen", "aria-live": "polite" });
  const slider = (id, label, value) => {
    const input = el("input", { type: "range", id, "data-testid": id, min: 0, max: STOPS, value });
    const output = el("output", { class: "readout", for: id }, "–");
    return { input, output, root: el("label", { class: "slide wide", for: id }, label, input, output) };
  };
  const from = slider("phase-from", "From step", 0);
  const to = slider("phase-to", "To step", STOPS);
  const bar = el("canvas", { class: "bar", role: "img", "aria-label": "Colours of the steps, oldest to newest" });
  const [low, high] = [el("span", {}, "0"), el("span", {}, "0")];
  const box = el("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": "Phase: values" });
  const details = el("details", { class: "as-table", "data-testid": "phase-table", on: { toggle: () => fill() } }, el("summary", {}, "Show as table"), box);
  panel.append(
    el("div", { class: "split" },
      el("figure", { class: "plot stage" },
        el("figcaption", {}, el("h2", {}, "L(x) against L(G(z))"), el("span", { class: "keys" }, el("span", { class: "key thin", colour: "target" }, "L(G(z)) = γ L(x)"))),
        frame, summary, details),
      el("aside", { class: "side", "aria-label": "Range of steps" },
        el("h2", {}, "Steps"),
        el("div", { class: "ramp" }, bar, el("p", { class: "ends quiet small" }, low, high)),
        from.root, to.root,
        el("h3", {}, "Point"), facts, spoke,
        el("p", { class: "quiet small" }, "Above the line generated images are reconstructed worse than γ asks for, and k falls; below it k rises, and D is told to tell them apart more. A run that has settled stays close to the line while both losses fall."))),
  );

  const bounds = () => {
    const share = (input) => Number(input.value) / STOPS;
    const [a, b] = [share(from.input), share(to.input)].map((part) => part * curves.end);
    return [Math.floor(Math.min(a, b)), Math.ceil(Math.max(a, b))];
  };
  const whole = () => Number(from.input.value) === 0 && Number(to.input.value) === STOPS;
  const moved = (event) => {
    // The two never cross: whichever is moved pushes the other.
    if (Number(from.input.value) > Number(to.input.value)) (event.target === from.input ? to : from).input.value = event.target.value;
    picked = -1;
    update();
    curves.setRange(whole() ? null : bounds());
  };
  from.input.addEventListener("input", moved);
  to.input.addEventListener("input", moved);

  function update() {
    const [first, last] = whole() ? [0, Infinity] : bounds();
    const x = curves.x();
    const { real, fake } = curves.data;
    points = [];
    for (let i = 0; i < x.length; i++)
      if (x[i] >= first && x[i] <= last && Number.isFinite(real.mean[i]) && Number.isFinite(fake.mean[i])) points.push({ step: x[i], x: real.mean[i], y: fake.mean[i] });
    const [a, b] = bounds();
    say(from.output, integer(a));
    say(to.output, integer(Math.max(0, b - 1)));
    say(low, points.length ? integer(points[0].step) : "0");
    say(high, points.length ? integer(points.at(-1).step) : "0");
    empty.hidden = points.length > 0;
    tell(false);
    surface.change();
    barSurface.change();
    describe();
  }

  function tell(spoken) {
    const point = points[picked] ?? points.at(-1);
    if (!point) return say(facts, "–");
    const ratio = point.x > 0 ? point.y / point.x : null;
    const text = `step ${integer(point.step)}: L(x) ${number(point.x)}, L(G(z)) ${number(point.y)}, L(G(z)) / L(x) ${number(ratio, 3)}`;
    facts.replaceChildren(...[["step", integer(point.step)], ["L(x)", number(point.x)], ["L(G(z))", number(point.y)], ["ratio", number(ratio, 3)], ["γ", number(state.run?.gamma, 3)]].map(([name, value]) => el("span", {}, el("span", { class: "quiet" }, name), el("b", {}, value))));
    if (spoken) say(spoke, text);
  }

  const describe = throttled(10_000, () => {
    if (points.length === 0) return say(summary, "No steps yet.");
    const [first, last] = [points[0], points.at(-1)];
    say(summary, `From step ${integer(first.step)} with L(x) ${number(first.x)} and L(G(z)) ${number(first.y)} to step ${integer(last.step)} with L(x) ${number(last.x)} and L(G(z)) ${number(last.y)}; gamma is ${number(state.run?.gamma, 3)}.`);
    fill();
  });

  function fill() {
    if (!details.open) return;
    const every = Math.max(1, Math.ceil(points.length / 200));
    const rows = points.filter((_, i) => (points.length - 1 - i) % every === 0).reverse();
    box.replaceChildren(table("L(x) and L(G(z)) by step", ["step", "L(x)", "L(G(z))"], rows.map((point) => [integer(point.step), number(point.x), number(point.y)]), { class: "values" }));
  }

  const surface = new Surface(canvas, (context, width, height) => {
    context.font = `11px ${colour("font")}`;
    // The first steps lie far out; what matters is where it settled, so single outliers may fall outside.
    const range = (key) => {
      const sorted = points.map((point) => point[key]).sort((a, b) => a - b);
      const cut = points.length > 100 ? Math.floor(points.length * 0.01) : 0;
      // All but the newest, which is marked.
      const newest = points.at(-1)?.[key];
      const [a, b] = [Math.min(sorted[cut] ?? 0, newest ?? 0), Math.max(sorted[sorted.length - 1 - cut] ?? 1, newest ?? 1)];
      const room = (b - a || b || 1) * 0.08;
      return [Math.max(0, a - room), b + room];
    };
    const [left, right] = range("x");
    let [bottom, top] = range("y");
    // The line is what the points are read against: keep a piece of it in sight unless that would crush them.
    const [near, far] = [left, right].map((x) => x * (state.run?.gamma ?? NaN));
    const room = (top - bottom) * 1.5;
    if (near > top && near - top < room) top = near + (near - bottom) * 0.12;
    if (far < bottom && bottom - far < room) bottom = Math.max(0, far - (top - far) * 0.12);
    const across = scale(left, right, MARGIN.left, width - MARGIN.right);
    const up = scale(bottom, top, height - MARGIN.bottom, MARGIN.top);
    const xTicks = across.ticks(Math.max(2, Math.floor(width / 90)));
    const yTicks = up.ticks(Math.max(2, Math.floor(height / 60)));
    const [xNames, yNames] = [tickLabels(xTicks), tickLabels(yTicks)];
    context.fillStyle = colour("grid");
    for (const tick of xTicks) context.fillRect(Math.round(across(tick)), MARGIN.top, 1, height - MARGIN.top - MARGIN.bottom);
    for (const tick of yTicks) context.fillRect(MARGIN.left, Math.round(up(tick)), width - MARGIN.left - MARGIN.right, 1);
    context.fillStyle = colour("quiet");
    context.textAlign = "center";
    context.textBaseline = "top";
    xTicks.forEach((tick, i) => context.fillText(xNames[i], across(tick), height - MARGIN.bottom + 7));
    context.textAlign = "right";
    context.textBaseline = "middle";
    yTicks.forEach((tick, i) => context.fillText(yNames[i], MARGIN.left - 8, up(tick)));
    context.fillStyle = colour("ink");
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.fillText("L(x)", width - MARGIN.right, height - 6);
    context.save();
    context.translate(14, MARGIN.top);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText("L(G(z))", 0, 0);
    context.restore();
    places = [];
    if (points.length === 0) return;
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom);
    context.clip();
    const gamma = state.run?.gamma;
    if (Number.isFinite(gamma)) {
      context.strokeStyle = colour("target");
      context.setLineDash([6, 4]);
      context.lineWidth = 1.2;
      context.beginPath();
      context.moveTo(across(0), up(0));
      context.lineTo(across(10), up(10 * gamma));
      context.stroke();
      context.setLineDash([]);
    }
    const [first, last] = [points[0].step, points.at(-1).step];
    const radius = points.length > 600 ? 1.8 : points.length > 100 ? 2.6 : 4;
    places = points.map((point) => [across(point.x), up(point.y)]);
    points.forEach((point, i) => {
      context.fillStyle = ramp((point.step - first) / (last - first || 1));
      context.beginPath();
      context.arc(...places[i], radius, 0, 7);
      context.fill();
    });
    const ring = (at, size, css) => {
      context.strokeStyle = css;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(...places[at], size, 0, 7);
      context.stroke();
    };
    ring(points.length - 1, 8, colour("accent"));
    const [px, py] = places.at(-1);
    context.fillStyle = colour("accent");
    context.textBaseline = "bottom";
    context.textAlign = px > width - 120 ? "right" : "left";
    context.lineWidth = 4;
    context.strokeStyle = colour("paper");
    context.lineJoin = "round";
    context.font = `600 12px ${colour("font")}`;
    context.strokeText(`step ${integer(last)}`, px + (px > width - 120 ? -11 : 11), py - 6);
    context.fillText(`step ${integer(last)}`, px + (px > width - 120 ? -11 : 11), py - 6);
    if (points[picked]) ring(picked, 6, colour("ink"));
    context.restore();
  });

  const barSurface = new Surface(bar, (context, width, height) => {
    for (let i = 0; i < width; i++) {
      context.fillStyle = ramp(i / width);
      context.fillRect(i, 0, 1.5, height);
    }
  });

  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = 900;
    picked = -1;
    places.forEach(([px, py], i) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= best) [best, picked] = [distance, i];
    });
    tell(false);
    surface.change();
  });
  frame.addEventListener("pointerleave", () => {
    picked = -1;
    tell(false);
    surface.change();
  });
  frame.addEventListener("keydown", (event) => {
    const now = picked < 0 ? points.length - 1 : picked;
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - 20, PageDown: now + 20, Home: 0, End: points.length - 1 }[event.key];
    if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    picked = Math.min(points.length - 1, Math.max(0, next));
    tell(true);
    surface.change();
  });
  on("run", () => awake && update());
  return {
    show() {
      awake = true;
      curves.wake();
    },
    hide() {
      awake = false;
      curves.sleep();
    },
  };
}

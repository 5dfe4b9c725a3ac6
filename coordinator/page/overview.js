// Overview: how the run stands, in figures, in the sentences of the diagnosis, and in curves over the steps.

import { get } from "./api.js";
import { Curves } from "./curves.js";
import { announce, el, fact, say, throttled } from "./dom.js";
import { duration, integer, number, plural } from "./format.js";
import { Link } from "./link.js";
import { Plot } from "./plot.js";
import { on, state } from "./state.js";

const POINTS = 1000;
const VERDICTS = { healthy: "Healthy", collapsed: "Collapsed", troubled: "Troubled", unknown: "Cannot be told yet", "cannot be told": "Cannot be told yet" };
const JUDGEMENTS = { trouble: ["!", "trouble"], broken: ["≠", "not as assumed"], held: ["✓", "held"], unknown: ["?", "cannot be told"] };

function facts(list) {
  const speed = fact(list, "Images/s", "fact-images");
  const step = fact(list, "Step time", "fact-step-time");
  const world = fact(list, "Trainers", "fact-trainers");
  const generation = fact(list, "Generation", "fact-generation");
  const checkpoint = fact(list, "Last checkpoint", "fact-checkpoint");
  const uptime = fact(list, "Up for", "fact-uptime");
  const show = () => {
    const { pulse, run, world: members } = state;
    if (!pulse) return;
    say(speed, number(pulse.images_per_second, 3));
    const images = (run?.lanes ?? 0) * (run?.batch ?? 0);
    say(step, pulse.images_per_second > 0 && images ? duration(images / pulse.images_per_second) : "–");
    say(generation, integer(pulse.generation));
    say(checkpoint, pulse.last_checkpoint === null || pulse.last_checkpoint === undefined ? "none yet" : `step ${integer(pulse.last_checkpoint)}`);
    say(uptime, duration(pulse.uptime));
    const there = members?.rank?.length;
    say(world, there === undefined ? "–" : there === members.expected ? integer(there) : `${integer(there)} of ${integer(members.expected)}`);
  };
  for (const topic of ["pulse", "run", "world"]) on(topic, show);
  show();
}

function diagnosis(root) {
  const verdict = el("p", { class: "verdict", "data-testid": "verdict", id: "verdict" }, "–");
  const reach = el("p", { class: "quiet small" });
  // What is wrong is always in sight; what is as it should be can be folded away, and is on a narrow screen.
  const [first, rest] = [el("ul", { class: "findings" }), el("ul", { class: "findings" })];
  const count = el("span", {});
  const details = el("details", { class: "as-table", open: matchMedia("(min-width: 1081px)").matches, hidden: true }, el("summary", {}, count), rest);
  root.append(el("h2", {}, "Diagnosis"), verdict, reach, el("div", { "data-testid": "findings", id: "findings" }, first, details));
  const show = (answer) => {
    verdict.dataset.verdict = answer.verdict ?? "unknown";
    say(verdict, VERDICTS[answer.verdict] ?? answer.verdict ?? "–");
    say(reach, answer.steps > 0 ? `from the first ${plural(answer.steps, "step")}` : "no steps yet");
    const order = Object.keys(JUDGEMENTS);
    const findings = [...(answer.findings ?? [])].sort((a, b) => order.indexOf(a.judgement) - order.indexOf(b.judgement));
    const item = (finding) => {
      const [sign, meaning] = JUDGEMENTS[finding.judgement] ?? JUDGEMENTS.unknown;
      return el(
        "li",
        { "data-judgement": finding.judgement },
        el("span", { class: "sign", "aria-hidden": "true" }, sign),
        el("div", {}, el("strong", {}, finding.subject ?? ""), el("span", { class: "unseen" }, ` (${meaning})`), el("p", {}, finding.text ?? ""), finding.advice ? el("p", { class: "advice" }, finding.advice) : null),
      );
    };
    const loud = ({ judgement }) => judgement === "trouble" || judgement === "broken";
    const calm = findings.filter((finding) => !loud(finding));
    first.replaceChildren(...findings.filter(loud).map(item));
    rest.replaceChildren(...calm.map(item));
    details.hidden = calm.length === 0;
    say(count, `${calm.filter(({ judgement }) => judgement === "held").length} held, ${calm.filter(({ judgement }) => judgement !== "held").length} cannot be told`);
  };
  const load = throttled(5000, async () => {
    try {
      show(await get("/api/diagnosis"));
    } catch (error) {
      if (verdict.textContent === "–") say(reach, error.message);
    }
  });
  return load;
}

function tools(link, onreset) {
  const button = (id, label, name, click) => el("button", { type: "button", id, "data-testid": id, "aria-label": name, title: name, on: { click } }, label);
  const smoothing = el("input", { type: "range", id: "smoothing", "data-testid": "smoothing", min: 0, max: 99, value: 0, on: { input: (event) => {
    link.smoothing = Number(event.target.value) / 100;
    say(amount, link.smoothing ? link.smoothing.toFixed(2) : "off");
    link.change();
  } } });
  const amount = el("output", { class: "readout", for: "smoothing" }, "off");
  const logarithmic = el("input", { type: "checkbox", id: "logarithmic", "data-testid": "logarithmic", on: { change: (event) => {
    link.logarithmic = event.target.checked;
    link.change();
  } } });
  const range = el("output", { class: "range quiet", id: "zoom-range", "data-testid": "zoom-range" }, "all steps");
  return {
    range,
    root: el(
      "div",
      { class: "tools", role: "group", "aria-label": "Curves" },
      el("div", { class: "row tight" },
        button("zoom-in", "+", "Zoom in", () => link.zoomBy(0.5)),
        button("zoom-out", "−", "Zoom out", () => link.zoomBy(2)),
        button("pan-left", "←", "Earlier steps", () => link.pan(-0.25)),
        button("pan-right", "→", "Later steps", () => link.pan(0.25)),
        button("zoom-reset", "All", "Show all steps", onreset)),
      range,
      el("label", { class: "check" }, logarithmic, "Logarithmic"),
      el("label", { class: "slide", for: "smoothing" }, "Smoothing", smoothing, amount),
    ),
  };
}

function scores(root) {
  const section = el("section", { class: "scores", hidden: true }, el("h2", {}, "Evaluation"));
  const plots = new Map();
  const link = new Link();
  root.append(section);
  const load = throttled(8000, async () => {
    let evaluations;
    try {
      evaluations = (await get("/api/evaluations")).evaluations ?? [];
    } catch {
      return;
    }
    section.hidden = evaluations.length === 0;
    if (evaluations.length === 0) return;
    link.setFull(0, Math.max(...evaluations.map(({ step }) => step)));
    const steps = [...new Set(evaluations.map(({ step }) => step))].sort((a, b) => a - b);
    for (const name of new Set(evaluations.flatMap(({ scores: values }) => Object.keys(values ?? {})))) {
      if (!plots.has(name)) {
        const plot = new Plot({ id: `plot-score-${name.replace(/\W/g, "-")}`, title: name.replaceAll("_", " "), link, series: [
          { key: "live", name: "live weights", colour: "real", dots: true },
          { key: "average", name: "average weights", colour: "fake", dots: true }] });
        plots.set(name, plot);
        section.append(plot.root);
      }
      const column = (weights) => ({ mean: steps.map((step) => evaluations.find((one) => one.step === step && one.weights === weights)?.scores?.[name] ?? null) });
      plots.get(name).setData({ x: steps, live: column("live"), average: column("average") });
    }
  });
  return load;
}

export function mount(panel) {
  const curves = new Curves(POINTS, () => update());
  const link = new Link({
    onzoom: (zoom) => {
      curves.setRange(zoom);
      showRange();
    },
    oncursor: (x, spoken) => {
      if (spoken && x !== null) say(spoke, plots.map((plot) => plot.sentence(plot.rowAtCursor())).join(". "));
    },
  });
  const plot = (options) => new Plot({ link, ...options });
  const plots = [
    plot({ id: "plot-losses", title: "Losses", tall: true, series: [
      { key: "real", name: "L(x)", colour: "real" },
      { key: "fake", name: "L(G(z))", colour: "fake" },
      { key: "target", name: "γ L(x)", colour: "target", thin: true, dash: [5, 4] }] }),
    plot({ id: "plot-k", title: "k", series: [{ key: "k", name: "k", colour: "k" }] }),
    plot({ id: "plot-m", title: "M_global", series: [{ key: "m_global", name: "M_global", colour: "m" }] }),
    plot({ id: "plot-rate", title: "Learning rate", series: [{ key: "rate", name: "rate", colour: "rate" }] }),
    plot({ id: "plot-seconds", title: "Seconds per step", robust: true, series: [{ key: "seconds", name: "seconds", colour: "seconds" }] }),
  ];
  const { root: toolbar, range } = tools(link, () => link.setZoom(null));
  const spoke = el("p", { class: "unseen", "aria-live": "polite", "data-testid": "crosshair-text" });
  const list = el("dl", { class: "facts", "data-testid": "facts-overview" });
  const side = el("aside", { class: "side", "aria-label": "Diagnosis" });
  const stage = el("div", { class: "stage" });
  const hint = el("p", { class: "hint quiet small" }, "Drag to zoom, double click for all. Wheel zooms with Ctrl or after a click. Keys: ← → values, + − zoom, Shift ← → move, 0 all.");
  stage.append(el("h2", { class: "unseen" }, "Curves"), toolbar, ...plots.map(({ root }) => root), hint, spoke);
  panel.append(list, el("div", { class: "split" }, stage, side));
  facts(list);
  const loadDiagnosis = diagnosis(side);
  const loadScores = scores(stage);
  let awake = false;

  function showRange() {
    const [low, high] = link.domain;
    say(range, link.zoom ? `steps ${integer(low)} to ${integer(high)}` : "all steps");
  }

  function update() {
    const { data } = curves;
    link.setFull(0, Math.max(curves.end - 1, 1));
    const gamma = state.run?.gamma;
    const target = data.real.mean.map((value) => (Number.isFinite(value) && Number.isFinite(gamma) ? value * gamma : null));
    const shared = { ...data, x: curves.x(), target: { mean: target } };
    for (const one of plots) one.setData(shared);
    remark();
  }

  // Once a minute, not each second: a listener wants to get on with other things.
  const remark = throttled(60_000, () => {
    const at = curves.data.step.length - 1;
    if (at >= 0 && awake && !document.hidden) announce(plots.slice(0, 3).map((one) => one.sentence(at)).join(". "));
  });

  const reload = () => {
    if (!awake) return;
    loadDiagnosis();
    loadScores();
  };
  on("window", reload);
  on("refresh", reload);
  on("ended", reload);
  on("run", update);
  on("event", (event) => {
    if (/evaluat|score/.test(event.kind ?? "")) loadScores();
  });
  return {
    show() {
      awake = true;
      curves.wake();
      reload();
    },
    hide() {
      awake = false;
      curves.sleep();
    },
  };
}


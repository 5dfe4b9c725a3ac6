// Losses of images: how L is spread over single images in a window of steps, how far that is from normal, and what the paper's formula makes of it.

import { get } from "./api.js";
import { el, say, throttled } from "./dom.js";
import { integer, number, percent } from "./format.js";
import { Histogram, peak } from "./histogram.js";
import { Link } from "./link.js";
import { Plot } from "./plot.js";
import { on } from "./state.js";

const OVER_TIME = [
  { key: "ratio", title: "Ratio (c1 + c2 − 2√(c1 c2)) / (m1 − m2)²", series: [["ratio", "ratio", "m"]] },
  { key: "distance", title: "Wasserstein-1", series: [["wasserstein", "measured", "real"], ["wasserstein_gaussian", "formula", "fake"]] },
  { key: "skewness", title: "Skewness", series: [["real.skewness", "L(x)", "real"], ["fake.skewness", "L(G(z))", "fake"]], rule: 0 },
  { key: "normality", title: "Normality, p", series: [["real.normality_p", "L(x)", "real"], ["fake.normality_p", "L(G(z))", "fake"]], range: [0, 1] },
  { key: "diversity", title: "Diversity", series: [["diversity", "diversity", "m"]], sparse: true, range: [0, 1], rule: 0.25 },
  { key: "specks", title: "Specks, share of values", series: [["specks", "specks", "seconds"]], sparse: true },
  { key: "range", title: "Out of range, share of values", series: [["out_of_range", "out of range", "rate"]] },
  { key: "crossings", format: integer, range: [0, 4], title: "Crossings a window", series: [["crossings", "L(x) and L(G(z))", "k"], ["gamma_crossings", "L(G(z)) and γ L(x)", "target"]] },
];

const pick = (window, path) => path.split(".").reduce((value, name) => value?.[name], window) ?? null;

export function mount(panel) {
  let windows = [];
  let at = -1;
  let follow = true;
  let awake = false;
  let stale = true;
  let abort = null;
  const whole = new Map();
  const real = new Histogram({ id: "histogram-real", title: "Real images, L(x)", tint: "real" });
  const fake = new Histogram({ id: "histogram-fake", title: "Generated images, L(G(z))", tint: "fake" });
  const slider = el("input", { type: "range", id: "window-slider", "data-testid": "window-slider", min: 0, max: 0, value: 0, "aria-label": "Window of steps" });
  const label = el("output", { id: "window-step", "data-testid": "window-step", class: "film-step", for: "window-slider" }, "–");
  const followBox = el("input", { type: "checkbox", id: "window-follow", "data-testid": "window-follow", checked: true });
  const moments = el("tbody", {});
  const distances = el("dl", { class: "facts few", "data-testid": "distances" });
  const link = new Link();
  const plots = OVER_TIME.map(({ key, title, series, range, rule, format, sparse }) => new Plot({ id: `plot-w-${key}`, title, link, format, range, rule: rule ?? null, empty: "No window yet.", series: series.map(([path, name, tint]) => ({ key: path, name, colour: tint, sparse })) }));
  panel.append(
    el("h2", {}, "One window"),
    el("div", { class: "film-controls", role: "group", "aria-label": "Window" }, slider, label, el("label", { class: "check" }, followBox, "Newest")),
    el("div", { class: "halves" }, real.root, fake.root),
    el("div", { class: "halves" },
      el("div", { class: "table-box open", tabindex: 0, role: "region", "aria-label": "Moments" },
        el("table", { class: "values", id: "moments", "data-testid": "moments" }, el("caption", { class: "unseen" }, "Moments of the losses of images"), el("thead", {}, el("tr", {}, ["", "images", "mean", "std", "skewness", "kurtosis", "normality, p"].map((name) => (name ? el("th", { scope: "col" }, name) : el("td", {}))))), moments)),
      distances),
    el("p", { class: "quiet small prose" }, "The paper trains on |m1 − m2| alone: for normal losses that is enough while the ratio stays constant or rises. Here all of it is measured: the distributions, the distance between them, and the ratio."),
    el("h2", {}, "Over the steps"),
    el("div", { class: "halves plots" }, plots.map(({ root }) => root)),
  );

  function show(window) {
    const histograms = [window?.real?.histogram, window?.fake?.histogram].filter((one) => one?.counts?.length);
    const range = histograms.length ? [Math.min(...histograms.map(({ low }) => low)), Math.max(...histograms.map(({ high }) => high))] : null;
    const most = Math.max(peak(window?.real), peak(window?.fake));
    real.set(window?.real ?? null, range, most);
    fake.set(window?.fake ?? null, range, most);
    facts(window);
  }

  function facts(window) {
    const row = (name, values) => el("tr", {}, el("th", { scope: "row" }, name), [integer(values?.count), ...["mean", "std", "skewness", "kurtosis", "normality_p"].map((key) => number(values?.[key], 3))].map((text) => el("td", {}, text)));
    moments.replaceChildren(row("L(x)", window?.real), row("L(G(z))", window?.fake));
    const [measured, formula] = [window?.wasserstein, window?.wasserstein_gaussian];
    const off = Number.isFinite(measured) && Number.isFinite(formula) && measured > 0 ? Math.abs(formula / measured - 1) : null;
    const items = [["W1 measured", number(measured)], ["W1 by the formula", number(formula)], ["Off by", percent(off)], ["Ratio", number(window?.ratio, 3)], ["Diversity", number(window?.diversity, 3)], ["Specks", percent(window?.specks, 3)], ["Out of range", percent(window?.out_of_range, 3)], ["Crossings", integer(window?.crossings)]];
    distances.replaceChildren(...items.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  async function go(to) {
    if (windows.length === 0) return show(null);
    at = Math.min(windows.length - 1, Math.max(0, to));
    slider.value = at;
    const window = windows[at];
    const text = `steps ${integer(window.from)} to ${integer(window.to - 1)}`;
    say(label, text);
    slider.setAttribute("aria-valuetext", text);
    link.cursor = follow ? null : window.to;
    link.change();
    if (whole.has(window.to)) return show(whole.get(window.to));
    facts(window);
    abort?.abort();
    abort = new AbortController();
    try {
      const answer = await get(`/api/windows/${window.to}`, abort.signal);
      whole.set(window.to, answer);
      if (whole.size > 64) whole.delete(whole.keys().next().value);
      if (windows[at]?.to === window.to) show(answer);
    } catch (error) {
      if (error.name !== "AbortError") show(window);
    }
  }

  function setFollow(value) {
    follow = value;
    followBox.checked = value;
  }

  slider.addEventListener("input", () => {
    setFollow(Number(slider.value) >= windows.length - 1);
    go(Number(slider.value));
  });
  followBox.addEventListener("change", () => {
    follow = followBox.checked;
    if (follow) go(windows.length - 1);
  });

  const load = throttled(5000, async () => {
    stale = false;
    try {
      windows = (await get("/api/windows")).windows ?? [];
    } catch {
      stale = true;
      return;
    }
    const before = at;
    slider.max = Math.max(0, windows.length - 1);
    slider.disabled = windows.length < 2;
    const x = windows.map(({ to }) => to - 1);
    link.setFull(windows[0]?.from ?? 0, Math.max(1, x.at(-1) ?? 1));
    for (const plot of plots) plot.setData({ x, ...Object.fromEntries(plot.series.map(({ key }) => [key, { mean: windows.map((window) => pick(window, key)) }])) });
    go(follow || before < 0 ? windows.length - 1 : before);
  });
  const changed = () => {
    stale = true;
    if (awake) load();
  };
  for (const topic of ["window", "refresh", "ended"]) on(topic, changed);
  on("rewind", ({ step }) => {
    for (const key of [...whole.keys()]) if (key > step) whole.delete(key);
    changed();
  });
  show(null);
  return {
    show() {
      awake = true;
      if (stale) load();
    },
    hide() {
      awake = false;
    },
  };
}

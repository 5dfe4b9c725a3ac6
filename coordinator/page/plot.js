// A plot of values over steps on a canvas: lines, bands, crosshair. Its values are also there as a sentence and as a table.

import { colour } from "./colours.js";
import { el, say, throttled } from "./dom.js";
import { number, stepLabel, integer } from "./format.js";
import { handle } from "./plot-input.js";
import { lowerBound, nearest, scale, tickLabels } from "./scale.js";
import { Surface } from "./surface.js";

const MARGIN = { left: 58, right: 14, top: 10, bottom: 24 };
const TABLE_ROWS = 200;

/** The bias-corrected exponential mean; missing values stay missing. */
function smooth(values, strength) {
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return null;
    sum = sum * strength + value * (1 - strength);
    weight = weight * strength + (1 - strength);
    return sum / weight;
  });
}

export class Plot {
  /**
   * `series`: `{key, name, colour, thin, dash, dots, sparse}` (sparse: measured now and then, and joined over the gaps); data is set as `{x, [key]: {mean, min, max} or null}`.
   * `robust` keeps single spikes from flattening everything else; `range` is the least that y shows.
   */
  constructor({ id, title, series, link, tall = false, robust = false, format = number, empty = "No steps yet.", xName = "step", range = null, rule = null }) {
    Object.assign(this, { id, title, series, link, robust, format, emptyText: empty, xName, range, rule });
    this.data = { x: [] };
    this.selection = null;
    this.readouts = series.map((line) => {
      const output = el("output", { class: "readout" }, "–");
      return { output, item: el("span", { class: line.dash || line.thin ? "key thin" : "key", colour: line.colour }, line.name, output) };
    });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.emptyNote = el("p", { class: "empty" }, empty);
    this.summary = el("p", { class: "unseen", id: `${id}-summary` });
    this.frame = el(
      "div",
      { class: tall ? "frame tall" : "frame", tabindex: 0, role: "application", "aria-roledescription": "chart", "aria-label": `${title} over ${xName}s. Arrow keys read values, plus and minus zoom, 0 shows everything.`, "aria-describedby": `${id}-summary` },
      this.canvas,
      this.emptyNote,
    );
    this.tableBox = el("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": `${title}: values` });
    this.details = el("details", { class: "as-table", on: { toggle: () => this.fillTable() } }, el("summary", {}, "Show as table", el("span", { class: "unseen" }, `: ${title}`)), this.tableBox);
    this.root = el("figure", { class: "plot", id, "data-testid": id }, el("figcaption", {}, el("h3", {}, title), el("span", { class: "keys" }, this.readouts.map(({ item }) => item))), this.frame, this.summary, this.details);
    this.surface = new Surface(this.canvas, (...args) => this.paint(...args));
    this.describe = throttled(8000, () => this.writeSummary());
    this.refreshTable = throttled(4000, () => this.fillTable());
    link.plots.push(this);
    handle(this);
  }

  setData(data) {
    this.data = data;
    this.smoothed = null;
    this.change();
    this.describe();
    if (this.details.open) this.refreshTable();
  }

  change() {
    this.surface.change();
    this.read();
  }

  values(key) {
    return this.data[key]?.mean ?? [];
  }

  /** Rows that are in sight: [first, last). */
  visible() {
    const [low, high] = this.link.domain;
    return [Math.max(0, lowerBound(this.data.x, low) - 1), Math.min(this.data.x.length, lowerBound(this.data.x, high) + 1)];
  }

  xScale() {
    const [low, high] = this.link.domain;
    return scale(low, high, MARGIN.left, Math.max(MARGIN.left + 1, this.surface.width - MARGIN.right));
  }

  xAt(pixel) {
    const [low, high] = this.link.domain;
    return Math.min(high, Math.max(low, this.xScale().invert(pixel)));
  }

  shareAt(pixel) {
    return (pixel - MARGIN.left) / Math.max(1, this.surface.width - MARGIN.left - MARGIN.right);
  }

  select(range) {
    this.selection = range;
    this.surface.change();
  }

  /** Moves the crosshair by whole rows. */
  step(by) {
    const [first, last] = this.visible();
    if (last <= first) return;
    const now = this.link.cursor === null ? (by > 0 ? first - 1 : last) : nearest(this.data.x, this.link.cursor);
    const at = Math.min(last - 1, Math.max(first, by === Infinity ? last - 1 : by === -Infinity ? first : now + by));
    this.link.setCursor(this.data.x[at], true);
  }

  rowAtCursor() {
    return this.link.cursor === null ? this.data.x.length - 1 : nearest(this.data.x, this.link.cursor);
  }

  read() {
    const at = this.rowAtCursor();
    this.series.forEach((line, i) => say(this.readouts[i].output, at < 0 ? "–" : this.format(this.valueAt(line, at))));
    this.emptyNote.hidden = this.data.x.length > 0;
  }

  /** The value of a row; of a sparse series the last one before it. */
  valueAt(line, at) {
    const values = this.values(line.key);
    let row = at;
    while (line.sparse && row > 0 && !Number.isFinite(values[row])) row--;
    return values[row];
  }

  /** What a crosshair at this row says. */
  sentence(at) {
    const parts = this.series.map((line) => `${line.name} ${this.format(this.valueAt(line, at))}`);
    return `${this.xName} ${integer(this.data.x[at])}: ${parts.join(", ")}`;
  }

  writeSummary() {
    const [first, last] = this.visible();
    if (last <= first) return say(this.summary, this.emptyText);
    const parts = this.series.map((line) => {
      const known = this.values(line.key).slice(first, last).filter(Number.isFinite);
      if (known.length === 0) return `${line.name} is not known`;
      const [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
      return `${line.name} from ${this.format(known[0])} to ${this.format(known.at(-1))}, between ${this.format(low)} and ${this.format(high)}`;
    });
    say(this.summary, `${this.xName}s ${integer(this.data.x[first])} to ${integer(this.data.x[last - 1])}: ${parts.join("; ")}.`);
  }

  fillTable() {
    if (!this.details.open) return;
    const [first, last] = this.visible();
    const every = Math.max(1, Math.ceil((last - first) / TABLE_ROWS));
    const rows = [];
    for (let i = last - 1; i >= first; i -= every) rows.push([integer(this.data.x[i]), ...this.series.map((line) => this.format(this.values(line.key)[i]))]);
    const head = el("tr", {}, [this.xName, ...this.series.map((line) => line.name)].map((name) => el("th", { scope: "col" }, name)));
    const body = rows.map((row) => el("tr", {}, row.map((cell, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, cell))));
    this.tableBox.replaceChildren(el("table", { class: "values" }, el("caption", { class: "unseen" }, this.title), el("thead", {}, head), el("tbody", {}, body)));
  }

  /** The range of y over the rows in sight. */
  extent(first, last) {
    const logarithmic = this.link.logarithmic;
    const fits = (value) => Number.isFinite(value) && (!logarithmic || value > 0);
    let low = Infinity;
    let high = -Infinity;
    const all = [];
    for (const { key } of this.series) {
      const band = this.data[key];
      for (const list of band ? [band.mean, band.min, band.max] : [])
        for (let i = first; list && i < last; i++) {
          const value = list[i];
          if (!fits(value)) continue;
          if (value < low) low = value;
          if (value > high) high = value;
          if (this.robust) all.push(value);
        }
    }
    if (low > high) return logarithmic ? [0.1, 1] : (this.range ?? [0, 1]);
    if (this.robust && all.length > 20) {
      all.sort((a, b) => a - b);
      const most = all[Math.floor(all.length * 0.97)] * 1.6;
      if (most > low && high > most * 1.5) high = most;
    }
    if (this.range && !logarithmic) [low, high] = [Math.min(low, this.range[0]), Math.max(high, this.range[1])];
    if (logarithmic) {
      const room = Math.max(1.05, (high / low) ** 0.05);
      return [low / room, high * room];
    }
    // Values that keep near zero are read from zero; others fill the frame.
    if (low >= 0 && low < high * 0.35) low = 0;
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low === 0 ? 0 : low - room, high + room];
  }

  paint(context, width, height) {
    const { x } = this.data;
    const [first, last] = this.visible();
    const logarithmic = this.link.logarithmic;
    const across = this.xScale();
    const [low, high] = this.extent(first, last);
    const up = scale(low, high, height - MARGIN.bottom, MARGIN.top, logarithmic);
    this.axes(context, width, height, across, up);
    if (x.length === 0) return;
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, 0, width - MARGIN.left - MARGIN.right + 4, height - MARGIN.bottom + 1);
    context.clip();
    const y = (value) => (Number.isFinite(value) && (!logarithmic || value > 0) ? up(value) : null);
    if (this.rule !== null && y(this.rule) !== null) {
      context.fillStyle = colour("rule");
      context.fillRect(MARGIN.left, Math.round(y(this.rule)), width, 1);
    }
    for (const line of this.series) this.band(context, line, across, y, first, last);
    for (const line of this.series) this.line(context, line, across, y, first, last);
    context.restore();
    if (this.selection) {
      const [a, b] = this.selection.map((pixel) => Math.min(width - MARGIN.right, Math.max(MARGIN.left, pixel)));
      context.fillStyle = colour("select");
      context.fillRect(Math.min(a, b), MARGIN.top, Math.abs(a - b), height - MARGIN.top - MARGIN.bottom);
    }
    if (this.link.cursor !== null) this.crosshair(context, width, height, across, y);
  }

  axes(context, width, height, across, up) {
    context.font = `11px ${colour("font") || "system-ui"}`;
    context.fillStyle = colour("grid");
    const yTicks = up.ticks(Math.max(3, Math.floor((height - 34) / 26)));
    const names = tickLabels(yTicks);
    for (const tick of yTicks) context.fillRect(MARGIN.left, Math.round(up(tick)), width - MARGIN.left - MARGIN.right, 1);
    const xTicks = across.ticks(Math.max(3, Math.floor(width / 105))).filter((tick) => Number.isInteger(tick));
    context.fillStyle = colour("axis");
    context.fillRect(MARGIN.left, height - MARGIN.bottom, width - MARGIN.left - MARGIN.right, 1);
    for (const tick of xTicks) context.fillRect(Math.round(across(tick)), height - MARGIN.bottom, 1, 4);
    context.fillStyle = colour("quiet");
    context.textAlign = "right";
    context.textBaseline = "middle";
    yTicks.forEach((tick, i) => context.fillText(names[i], MARGIN.left - 8, up(tick)));
    context.textBaseline = "top";
    for (const tick of xTicks) {
      const label = stepLabel(tick);
      const half = context.measureText(label).width / 2;
      context.textAlign = "center";
      context.fillText(label, Math.min(width - half - 2, across(tick)), height - MARGIN.bottom + 7);
    }
  }

  band(context, line, across, y, first, last) {
    const { min, max } = this.data[line.key] ?? {};
    if (!min || !max || line.thin) return;
    context.fillStyle = colour(line.colour);
    context.globalAlpha = 0.16;
    let run = [];
    const flush = () => {
      if (run.length > 1) {
        context.beginPath();
        for (const [px, top] of run) context.lineTo(px, top);
        for (const [px, , bottom] of run.reverse()) context.lineTo(px, bottom);
        context.fill();
      }
      run = [];
    };
    for (let i = first; i < last; i++) {
      const [bottom, top] = [y(min[i]), y(max[i])];
      if (bottom === null || top === null) flush();
      else run.push([across(this.data.x[i]), top, bottom]);
    }
    flush();
    context.globalAlpha = 1;
  }

  line(context, line, across, y, first, last) {
    const raw = this.values(line.key);
    const strength = line.thin ? 0 : this.link.smoothing;
    const trace = (values, alpha, width) => {
      context.strokeStyle = context.fillStyle = colour(line.colour);
      context.globalAlpha = alpha;
      context.lineWidth = width;
      context.lineJoin = "round";
      context.setLineDash(line.dash ?? []);
      context.beginPath();
      let open = false;
      for (let i = first; i < last; i++) {
        const py = y(values[i]);
        if (py === null) open = open && line.sparse;
        else {
          const px = across(this.data.x[i]);
          if (open) context.lineTo(px, py);
          else context.moveTo(px, py);
          open = true;
        }
      }
      context.stroke();
      context.setLineDash([]);
      if (line.dots || last - first < (line.sparse ? 250 : 40))
        for (let i = first; i < last; i++) {
          const py = y(values[i]);
          if (py === null || line.thin) continue;
          context.beginPath();
          context.arc(across(this.data.x[i]), py, 2.2, 0, 7);
          context.fill();
        }
      context.globalAlpha = 1;
    };
    if (strength > 0) {
      this.smoothed ??= {};
      if (this.smoothed[line.key]?.strength !== strength) this.smoothed[line.key] = { strength, values: smooth(raw, strength) };
      trace(raw, 0.28, 1);
      trace(this.smoothed[line.key].values, 1, 2);
    } else trace(raw, 1, line.thin ? 1 : 1.6);
  }

  crosshair(context, width, height, across, y) {
    const at = this.rowAtCursor();
    if (at < 0) return;
    const px = across(this.data.x[at]);
    if (px < MARGIN.left - 1 || px > width - MARGIN.right + 1) return;
    context.fillStyle = colour("cross");
    context.fillRect(Math.round(px), MARGIN.top, 1, height - MARGIN.top - MARGIN.bottom);
    for (const line of this.series) {
      const py = y(this.values(line.key)[at]);
      if (py === null || py < MARGIN.top - 2) continue;
      context.beginPath();
      context.arc(px, py, 3.5, 0, 7);
      context.fillStyle = colour(line.colour);
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = colour("paper");
      context.stroke();
    }
    const label = integer(this.data.x[at]);
    const wide = context.measureText(label).width + 10;
    const left = Math.min(width - wide, Math.max(MARGIN.left, px - wide / 2));
    context.fillStyle = colour("ink");
    context.fillRect(left, height - MARGIN.bottom + 3, wide, 18);
    context.fillStyle = colour("paper");
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(label, left + wide / 2, height - MARGIN.bottom + 12.5);
  }
}

// A histogram of the losses of single images, with the normal distribution of the same mean and standard deviation over it.

import { colour } from "./colours.js";
import { el, say, table } from "./dom.js";
import { integer, number } from "./format.js";
import { scale, tickLabels } from "./scale.js";
import { Surface } from "./surface.js";

const MARGIN = { left: 44, right: 12, top: 10, bottom: 24 };

export class Histogram {
  constructor({ id, title, tint }) {
    this.tint = tint;
    this.values = null;
    this.range = null;
    this.canvas = el("canvas", { role: "img", "aria-label": title });
    this.empty = el("p", { class: "empty" }, "No window yet.");
    this.box = el("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": `${title}: bins` });
    this.details = el("details", { class: "as-table", on: { toggle: () => this.fill() } }, el("summary", {}, "Show as table", el("span", { class: "unseen" }, `: ${title}`)), this.box);
    this.root = el("figure", { class: "plot", id, "data-testid": id }, el("figcaption", {}, el("h3", {}, title), el("span", { class: "keys" }, el("span", { class: "key block", colour: tint }, "images"), el("span", { class: "key thin", colour: "ink" }, "normal"))), el("div", { class: "frame middle" }, this.canvas, this.empty), this.details);
    this.title = title;
    this.surface = new Surface(this.canvas, (...args) => this.paint(...args));
  }

  /** `values` is `real` or `fake` of a window; `range` is [low, high] that both share. */
  set(values, range, most) {
    Object.assign(this, { values, range, most });
    const there = values?.histogram?.counts?.length > 0;
    this.empty.hidden = there;
    say(this.empty, values ? "This window has no histogram." : "No window yet.");
    this.canvas.setAttribute("aria-label", there ? `${this.title}: ${integer(values.count)} images, mean ${number(values.mean)}, standard deviation ${number(values.std)}, from ${number(values.histogram.low)} to ${number(values.histogram.high)}` : this.title);
    this.surface.change();
    this.fill();
  }

  fill() {
    const histogram = this.values?.histogram;
    if (!this.details.open || !histogram) return;
    const width = (histogram.high - histogram.low) / histogram.counts.length;
    const rows = histogram.counts.map((count, i) => [number(histogram.low + i * width), number(histogram.low + (i + 1) * width), integer(count)]);
    this.box.replaceChildren(table(this.title, ["from", "to", "images"], rows, { class: "values" }));
  }

  paint(context, width, height) {
    const histogram = this.values?.histogram;
    if (!histogram?.counts?.length || !this.range) return;
    context.font = `11px ${colour("font")}`;
    const { counts, low, high } = histogram;
    const bin = (high - low) / counts.length;
    const { mean, std } = this.values;
    const total = counts.reduce((sum, count) => sum + count, 0);
    const across = scale(...this.range, MARGIN.left, width - MARGIN.right);
    // Densities, so that two histograms of other bins can be compared.
    const density = (count) => (total > 0 && bin > 0 ? count / total / bin : 0);
    const up = scale(0, this.most || 1, height - MARGIN.bottom, MARGIN.top);
    const ticks = across.ticks(Math.max(2, Math.floor(width / 90)));
    const names = tickLabels(ticks);
    context.fillStyle = colour("axis");
    context.fillRect(MARGIN.left, height - MARGIN.bottom, width - MARGIN.left - MARGIN.right, 1);
    context.fillStyle = colour("quiet");
    context.textAlign = "center";
    context.textBaseline = "top";
    ticks.forEach((tick, i) => context.fillText(names[i], across(tick), height - MARGIN.bottom + 7));
    context.save();
    context.translate(14, (height - MARGIN.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText("density", 0, 0);
    context.restore();
    context.fillStyle = colour(this.tint);
    context.globalAlpha = 0.75;
    counts.forEach((count, i) => {
      const [a, b] = [across(low + i * bin), across(low + (i + 1) * bin)];
      const top = up(density(count));
      context.fillRect(a, top, Math.max(1, b - a - 1), height - MARGIN.bottom - top);
    });
    context.globalAlpha = 1;
    if (!(std > 0) || !Number.isFinite(mean)) return;
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.beginPath();
    for (let px = MARGIN.left; px <= width - MARGIN.right; px += 2) {
      const z = (across.invert(px) - mean) / std;
      context.lineTo(px, up(Math.exp(-z * z / 2) / (std * Math.sqrt(2 * Math.PI))));
    }
    context.stroke();
  }
}

/** The highest density of a distribution: of its bins or of its normal. */
export function peak(values) {
  const histogram = values?.histogram;
  if (!histogram?.counts?.length) return 0;
  const total = histogram.counts.reduce((sum, count) => sum + count, 0) || 1;
  const bin = (histogram.high - histogram.low) / histogram.counts.length || 1;
  const normal = values.std > 0 ? 1 / (values.std * Math.sqrt(2 * Math.PI)) : 0;
  return Math.max(Math.max(...histogram.counts) / total / bin, normal) * 1.05;
}

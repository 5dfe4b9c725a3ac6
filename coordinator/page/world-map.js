// The world as a map: a cell a trainer, grouped by node, coloured by what one wants to see. Arrow keys go from trainer to trainer.

import { colour, needsDarkText, ramp } from "./colours.js";
import { el } from "./dom.js";
import { duration, isKnown, milliseconds, megabytes, percent, quantile } from "./format.js";
import { Surface } from "./surface.js";
import { ACTIVITIES } from "./trainers.js";

/** What a map can be coloured by: value of a row, and how to say it. */
export const COLOURINGS = {
  activity: { name: "Activity" },
  own: { name: "Own step time", value: (row) => row.own, say: milliseconds },
  step: { name: "Step time", value: (row) => row.step, say: milliseconds },
  share: { name: "Share of waiting", value: (row) => row.share, say: percent, range: [0, 1] },
  silent: { name: "Silence", value: (row) => row.silent, say: duration, atLeast: 5 },
  resident: { name: "Memory", value: (row) => row.resident, say: megabytes },
  memory: { name: "Device memory", value: (row) => (row.memoryAll > 0 ? row.memory / row.memoryAll : null), say: percent, range: [0, 1] },
};

export class WorldMap {
  constructor({ onpick }) {
    this.rows = [];
    this.by = "activity";
    this.hovered = -1;
    this.focused = 0;
    this.onpick = onpick;
    this.cells = [];
    this.canvas = el("canvas", { id: "map-canvas", "data-testid": "map-canvas", "aria-hidden": "true" });
    this.root = el("div", { class: "map", tabindex: 0, role: "application", "aria-roledescription": "map of trainers", "aria-label": "Trainers by node. Arrow keys go from trainer to trainer.", "aria-describedby": "map-facts" }, this.canvas);
    this.legend = el("div", { class: "legend small", "data-testid": "map-legend" });
    this.surface = new Surface(this.canvas, (...args) => this.paint(...args));
    this.width = 0;
    new ResizeObserver(([entry]) => {
      if (entry.contentRect.width === this.width) return;
      this.width = entry.contentRect.width;
      this.arrange();
    }).observe(this.root);
    this.root.addEventListener("pointermove", (event) => this.point(event));
    this.root.addEventListener("pointerdown", (event) => this.point(event));
    this.root.addEventListener("pointerleave", () => this.pick(-1));
    this.root.addEventListener("focus", () => this.pick(this.focused));
    this.root.addEventListener("blur", () => this.pick(-1));
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  set(rows) {
    const other = rows.length !== this.rows.length || rows.some((row, i) => row.node !== this.rows[i]?.node || row.rank !== this.rows[i]?.rank);
    this.rows = rows;
    if (other) this.arrange();
    this.change();
  }

  colourBy(name) {
    this.by = name;
    this.change();
  }

  change() {
    this.measure();
    this.surface.change();
  }

  /** Lays the nodes out: as large as they can be up to a bound, so that four are not lost and a thousand fit. */
  arrange() {
    const nodes = new Map();
    for (const row of this.rows) {
      if (!nodes.has(row.node)) nodes.set(row.node, []);
      nodes.get(row.node).push(row.index);
    }
    this.nodes = [...nodes.entries()].sort(([a], [b]) => a - b);
    if (this.width === 0 || this.nodes.length === 0) return;
    const largest = Math.max(...this.nodes.map(([, members]) => members.length));
    const count = this.rows.length;
    const narrow = this.width < 500;
    const columns = largest <= 4 ? largest : largest <= 16 ? Math.ceil(largest / 2) : Math.ceil(Math.sqrt(largest));
    const wanted = count <= 8 ? 64 : count <= 40 ? 44 : count <= 160 ? 28 : count <= 520 ? 20 : 15;
    const size = Math.max(9, Math.min(narrow && count > 160 ? 11 : wanted, Math.floor((this.width - 8) / columns) - 2));
    const gap = size > 20 ? 3 : 1;
    const labelled = size > 12 || !narrow;
    const [blockGap, label] = [Math.max(8, size * 0.55), labelled ? 15 : 3];
    const blockWidth = columns * (size + gap) - gap;
    const across = Math.max(1, Math.floor((this.width + blockGap) / (blockWidth + blockGap)));
    const blockHeight = Math.ceil(largest / columns) * (size + gap) - gap;
    this.cells = [];
    this.labels = [];
    this.nodes.forEach(([node, members], n) => {
      const x = (n % across) * (blockWidth + blockGap);
      const y = Math.floor(n / across) * (blockHeight + label + blockGap);
      const host = this.rows[members[0]]?.host ?? `node ${node}`;
      if (labelled) this.labels.push({ x, y, text: host, width: blockWidth });
      members.forEach((index, i) => (this.cells[index] = { x: x + (i % columns) * (size + gap), y: y + label + Math.floor(i / columns) * (size + gap), size }));
    });
    const height = Math.ceil(this.nodes.length / across) * (blockHeight + label + blockGap);
    this.canvas.style.height = `${Math.ceil(height)}px`;
    this.surface.change();
  }

  /** The range of the amounts, and the legend. */
  measure() {
    const colouring = COLOURINGS[this.by];
    if (this.by === "activity") {
      const there = ACTIVITIES.map((name, code) => [name, code, this.rows.filter(({ activity }) => activity === code).length]).filter(([, , count]) => count > 0);
      const key = there.map(([name, , count]) => `${name} ${count}`).join();
      if (key === this.legendKey) return;
      this.legendKey = key;
      this.legend.replaceChildren(...there.map(([name, code, count]) => el("span", { class: "key block", colour: `activity-${code}` }, name, el("b", {}, count))));
      return;
    }
    const values = this.rows.map(colouring.value).filter(isKnown);
    const most = quantile(values, 1);
    this.range = colouring.range ?? [quantile(values, 0) ?? 0, Math.max(most ?? 1, colouring.atLeast ?? 0)];
    if (colouring.atLeast) this.range[0] = 0;
    const [low, high] = this.range.map((value) => colouring.say(value));
    const key = `${this.by} ${low} ${high} ${values.length}`;
    if (key === this.legendKey) return;
    this.legendKey = key;
    if (values.length === 0) return this.legend.replaceChildren(el("span", { class: "quiet" }, "not measured"));
    const bar = el("span", { class: "ramp-bar", "aria-hidden": "true" }, [...Array(24).keys()].map((i) => {
      const piece = el("i", {});
      piece.style.background = ramp(i / 23);
      return piece;
    }));
    this.legend.replaceChildren(el("span", {}, low), bar, el("span", {}, high));
  }

  fill(row) {
    if (this.by === "activity") return colour(`activity-${row.activity}`);
    const value = COLOURINGS[this.by].value(row);
    if (!isKnown(value)) return null;
    const [low, high] = this.range;
    return ramp(high > low ? (value - low) / (high - low) : 0);
  }

  paint(context, width) {
    context.textBaseline = "middle";
    context.font = `11px ${colour("font")}`;
    context.fillStyle = colour("quiet");
    context.textAlign = "left";
    for (const { x, y, text, width: room } of this.labels ?? []) {
      let shown = text;
      if (context.measureText(shown).width > room) {
        // The end of a host's name tells it from its neighbours.
        while (shown.length > 1 && context.measureText(`…${shown}`).width > room) shown = shown.slice(1);
        shown = `…${shown}`;
      }
      context.fillText(shown, x, y + 7);
    }
    context.textAlign = "center";
    this.rows.forEach((row, i) => {
      const cell = this.cells[i];
      if (!cell || cell.x > width) return;
      const fill = this.fill(row);
      context.fillStyle = fill ?? colour("grid");
      context.fillRect(cell.x, cell.y, cell.size, cell.size);
      if (cell.size < 24) return;
      context.font = `${cell.size > 40 ? 13 : 11}px ${colour("font")}`;
      context.fillStyle = fill === null ? colour("quiet") : needsDarkText(fill) ? "#111" : "#fff";
      context.fillText(row.rank, cell.x + cell.size / 2, cell.y + cell.size / 2 + 0.5);
    });
    const cell = this.cells[this.hovered];
    if (!cell) return;
    context.lineWidth = 2;
    context.strokeStyle = colour("paper");
    context.strokeRect(cell.x - 0.5, cell.y - 0.5, cell.size + 1, cell.size + 1);
    context.strokeStyle = colour("ink");
    context.strokeRect(cell.x - 2, cell.y - 2, cell.size + 4, cell.size + 4);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const found = this.cells.findIndex((cell) => cell && x >= cell.x - 1 && x <= cell.x + cell.size + 1 && y >= cell.y - 1 && y <= cell.y + cell.size + 1);
    if (found >= 0 || event.pointerType === "mouse") this.pick(found);
    if (found >= 0) this.focused = found;
  }

  pick(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.surface.change();
    this.onpick(index);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.rows.length === 0) return;
    const now = this.cells[this.focused];
    const vertical = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    let next = { ArrowLeft: this.focused - 1, ArrowRight: this.focused + 1, Home: 0, End: this.rows.length - 1 }[event.key];
    if (vertical && now) {
      let least = Infinity;
      this.cells.forEach((cell, i) => {
        const down = (cell.y - now.y) * vertical;
        const distance = down * 1000 + Math.abs(cell.x - now.x);
        if (down > 1 && distance < least) [least, next] = [distance, i];
      });
      next ??= this.focused;
    }
    if (next === undefined) return;
    event.preventDefault();
    this.focused = Math.min(this.rows.length - 1, Math.max(0, next));
    this.pick(this.focused);
  }
}


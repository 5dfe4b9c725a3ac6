// The world as a table: sortable, filterable, and virtual: only the rows in sight exist, so that a thousand trainers cost what twenty do.

import { el, say } from "./dom.js";
import { duration, integer, isKnown, megabytes, milliseconds, percent } from "./format.js";
import { ACTIVITIES } from "./trainers.js";

const ROW = 34;
const SPARE = 4;

export const COLUMNS = [
  { key: "rank", name: "Rank", say: (row) => String(row.rank), number: true },
  { key: "host", name: "Host", say: (row) => row.host },
  { key: "node", name: "Node", say: (row) => String(row.node), number: true },
  { key: "device", name: "Device", say: (row) => row.device },
  { key: "lanes", name: "Lanes", say: (row) => row.lanes, number: true, sort: (row) => parseInt(row.lanes, 10) },
  { key: "activity", name: "Activity", say: (row) => ACTIVITIES[row.activity] ?? "unknown" },
  { key: "seconds", name: "For", say: (row) => duration(row.seconds), number: true },
  { key: "step", name: "Step", say: (row) => milliseconds(row.step), number: true },
  { key: "own", name: "Own", say: (row) => milliseconds(row.own), number: true },
  { key: "share", name: "Waiting", say: (row) => percent(row.share, 0), number: true },
  { key: "silent", name: "Silent", say: (row) => duration(row.silent), number: true },
  { key: "resident", name: "Memory", say: (row) => megabytes(row.resident), number: true },
  { key: "memory", name: "Device memory", say: (row) => (isKnown(row.memory) ? (isKnown(row.memoryAll) ? `${megabytes(row.memory)} of ${megabytes(row.memoryAll)}` : megabytes(row.memory)) : "–"), number: true },
  { key: "pid", name: "Process", say: (row) => (isKnown(row.pid) ? String(row.pid) : "–"), number: true },
];

export class WorldTable {
  constructor() {
    this.rows = [];
    this.shown = [];
    this.sortBy = COLUMNS[0];
    this.falling = false;
    this.text = "";
    this.activity = "";
    this.pool = [];
    this.heads = COLUMNS.map((column) => {
      const button = el("button", { type: "button", on: { click: () => this.sort(column) } }, column.name);
      return el("th", { scope: "col", class: column.number ? "number" : null }, button);
    });
    this.before = el("tr", { "aria-hidden": "true", class: "spacer" }, el("td", { colspan: COLUMNS.length }));
    this.after = el("tr", { "aria-hidden": "true", class: "spacer" }, el("td", { colspan: COLUMNS.length }));
    this.body = el("tbody", {}, this.before, this.after);
    this.table = el("table", { class: "world-table", id: "world-table", "data-testid": "world-table" }, el("caption", { class: "unseen" }, "Trainers"), el("thead", {}, el("tr", { "aria-rowindex": 1 }, this.heads)), this.body);
    this.box = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of trainers" }, this.table);
    this.count = el("span", { class: "quiet small", "data-testid": "world-count" });
    this.box.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.paint()).observe(this.box);
    this.mark();
  }

  set(rows) {
    this.rows = rows;
    this.arrange();
  }

  filter(text, activity) {
    this.text = text.trim().toLowerCase();
    this.activity = activity;
    this.arrange();
  }

  sort(column) {
    this.falling = this.sortBy === column ? !this.falling : Boolean(column.number) && column.key !== "rank" && column.key !== "node" && column.key !== "lanes";
    this.sortBy = column;
    this.mark();
    this.arrange();
  }

  mark() {
    COLUMNS.forEach((column, i) => {
      if (column === this.sortBy) this.heads[i].setAttribute("aria-sort", this.falling ? "descending" : "ascending");
      else this.heads[i].removeAttribute("aria-sort");
    });
  }

  arrange() {
    const { key, sort } = this.sortBy;
    const value = sort ?? ((row) => row[key]);
    const direction = this.falling ? -1 : 1;
    this.shown = this.rows.filter((row) => (this.activity === "" || String(row.activity) === this.activity) && (this.text === "" || `${row.rank} rank ${row.rank} ${row.host} ${row.device} node ${row.node}`.toLowerCase().includes(this.text)));
    this.shown.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      // Missing values last, whichever way it goes; equals by rank.
      const missing = (v) => v === null || v === undefined || Number.isNaN(v);
      if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y)) || a.rank - b.rank;
      return (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) * direction || a.rank - b.rank;
    });
    this.box.style.height = `${Math.min(560, this.shown.length * ROW + 56)}px`;
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    say(this.count, this.shown.length === this.rows.length ? `${integer(this.rows.length)} trainers` : `${integer(this.shown.length)} of ${integer(this.rows.length)} trainers`);
    this.paint();
  }

  paint() {
    const height = this.box.clientHeight;
    if (height === 0) return;
    const fits = Math.ceil(height / ROW) + 2 * SPARE;
    const first = Math.max(0, Math.min(Math.floor(this.box.scrollTop / ROW) - SPARE, this.shown.length - fits));
    const last = Math.min(this.shown.length, first + fits);
    while (this.pool.length < last - first) {
      const cells = COLUMNS.map((column, i) => el(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: column.number ? "number" : null }));
      const tr = el("tr", {}, cells);
      this.pool.push({ tr, cells });
      this.after.before(tr);
    }
    this.pool.forEach(({ tr, cells }, i) => {
      const row = this.shown[first + i];
      tr.hidden = first + i >= last;
      if (tr.hidden) return;
      tr.setAttribute("aria-rowindex", first + i + 2);
      tr.dataset.rank = row.rank;
      COLUMNS.forEach((column, c) => say(cells[c], column.say(row)));
    });
    this.before.style.height = `${first * ROW}px`;
    this.after.style.height = `${(this.shown.length - last) * ROW}px`;
  }
}

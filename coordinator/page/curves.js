// The curves of a run over a range of steps, in buckets: asked for by range, extended by the stream, cut off by a rewind. Never asks more often than every few seconds
// on its own, and at once when a person moves the range.

import { get } from "./api.js";
import { throttled } from "./dom.js";
import { on } from "./state.js";

export const COLUMNS = ["real", "fake", "k", "m_global", "rate", "seconds"];
const AGAIN_AFTER = 4000;
const KEPT_LIVE = 400;

const nothing = () => ({ step: [], count: [], ...Object.fromEntries(COLUMNS.map((name) => [name, { min: [], mean: [], max: [] }])) });

export class Curves {
  /** `onchange` is called after every change of `data`. */
  constructor(points, onchange) {
    this.points = points;
    this.onchange = onchange;
    this.range = null;
    this.data = nothing();
    this.end = 0;
    this.loaded = false;
    this.stale = false;
    this.recent = [];
    this.awake = false;
    this.again = throttled(AGAIN_AFTER, () => this.load());
    on("steps", (steps) => this.extend(steps));
    on("rewind", ({ step }) => this.rewind(step));
    on("refresh", () => this.missed());
    on("ended", () => this.missed());
  }

  /** Somebody looks now: catch up if something was missed. */
  wake() {
    this.awake = true;
    if (!this.loaded || this.stale) this.load();
  }

  sleep() {
    this.awake = false;
  }

  missed() {
    this.stale = true;
    if (this.awake) this.again();
  }

  /** Steps [from, to), or all for null. */
  setRange(range) {
    this.range = range && [Math.max(0, Math.floor(range[0])), Math.ceil(range[1])];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), 150);
  }

  async load() {
    this.stale = false;
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const query = new URLSearchParams({ points: this.points });
    if (this.range) {
      query.set("from", this.range[0]);
      query.set("to", Math.max(this.range[1], this.range[0] + 1));
    }
    let answer;
    try {
      answer = await get(`/api/curves?${query}`, abort.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.stale = true;
      return;
    }
    if (abort.signal.aborted) return;
    this.data = { ...nothing(), ...answer };
    this.end = Math.max(answer.end ?? 0, this.until());
    this.loaded = true;
    for (const steps of this.recent) this.append(steps);
    this.onchange(this);
  }

  /** The first step that the data does not hold. */
  until() {
    const { step, count } = this.data;
    return step.length === 0 ? (this.range?.[0] ?? 0) : step.at(-1) + (count.at(-1) ?? 1);
  }

  extend(steps) {
    if (!Array.isArray(steps.step) || steps.step.length === 0) return;
    this.recent.push(steps);
    while (this.recent.length > KEPT_LIVE) this.recent.shift();
    const before = this.end;
    this.end = Math.max(this.end, steps.step.at(-1) + 1);
    if (!this.loaded) return;
    // A range that ends earlier stays as it is; the whole still grows around it.
    if (this.range && this.range[1] <= before) return this.onchange(this);
    if (!this.append(steps)) return this.missed();
    if (this.data.step.length > this.points * 1.5) this.missed();
    this.onchange(this);
  }

  /** False if there is a gap before these steps. */
  append(steps) {
    for (let i = 0; i < steps.step.length; i++) {
      const step = steps.step[i];
      const until = this.until();
      if (step < until || (this.range && step >= this.range[1])) continue;
      if (step > until) return false;
      this.data.step.push(step);
      this.data.count.push(1);
      for (const name of COLUMNS) {
        const value = steps[name]?.[i] ?? null;
        const column = this.data[name];
        for (const list of [column.min, column.mean, column.max]) list.push(value);
      }
    }
    return true;
  }

  /** Steps from `step` on are void. */
  rewind(step) {
    this.recent = [];
    this.abort?.abort();
    this.end = Math.min(this.end, step);
    const { data } = this;
    let keep = data.step.length;
    while (keep > 0 && data.step[keep - 1] + (data.count[keep - 1] ?? 1) > step) keep--;
    const cut = keep < data.step.length && data.step[keep] < step;
    for (const list of [data.step, data.count, ...COLUMNS.flatMap((name) => [data[name].min, data[name].mean, data[name].max])]) list.length = Math.min(list.length, keep);
    if (cut || !this.loaded) this.missed();
    this.onchange(this);
  }

  /** The middles of the buckets. */
  x() {
    return this.data.step.map((step, i) => step + ((this.data.count[i] ?? 1) - 1) / 2);
  }
}

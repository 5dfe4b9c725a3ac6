// A canvas that is drawn at the screen's own resolution, only when it is seen, and only after a change.

import { on } from "./state.js";

const waiting = new Set();
let asked = false;

function frame() {
  asked = false;
  if (document.hidden) return;
  const now = [...waiting];
  waiting.clear();
  for (const surface of now) surface.drawNow();
}

function ask(surface) {
  waiting.add(surface);
  if (asked || document.hidden) return;
  asked = true;
  requestAnimationFrame(frame);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && waiting.size > 0 && !asked) {
    asked = true;
    requestAnimationFrame(frame);
  }
});

export class Surface {
  /** `paint(context, width, height)` in CSS pixels, on a cleared canvas. */
  constructor(canvas, paint) {
    this.canvas = canvas;
    this.paint = paint;
    this.seen = false;
    this.dirty = true;
    this.width = 0;
    this.height = 0;
    new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      if (width === this.width && height === this.height) return;
      this.width = width;
      this.height = height;
      this.change();
    }).observe(canvas);
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen && this.dirty) ask(this);
    }, { rootMargin: "120px" }).observe(canvas);
    on("theme", () => this.change());
  }

  /** Something to be seen has changed. */
  change() {
    this.dirty = true;
    if (this.seen) ask(this);
  }

  drawNow() {
    if (!this.dirty || !this.seen || this.width === 0 || this.height === 0) return;
    this.dirty = false;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.paint(context, this.width, this.height);
  }
}

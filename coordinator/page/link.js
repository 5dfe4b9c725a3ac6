// What several plots share: the range of steps they show, the crosshair, smoothing and scale. A zoom in one is a zoom in all.

export class Link {
  constructor({ smallest = 4, onzoom = () => {}, oncursor = () => {} } = {}) {
    this.plots = [];
    this.full = [0, 1];
    this.zoom = null;
    this.cursor = null;
    this.smoothing = 0;
    this.logarithmic = false;
    this.smallest = smallest;
    this.onzoom = onzoom;
    this.oncursor = oncursor;
  }

  get domain() {
    return this.zoom ?? this.full;
  }

  change() {
    for (const plot of this.plots) plot.change();
  }

  setFull(low, high) {
    this.full = [low, Math.max(high, low + 1)];
    this.change();
  }

  /** Shows [low, high], or everything for null or a range that covers it. */
  setZoom(range) {
    let next = null;
    if (range) {
      const [low, high] = this.full;
      let span = Math.min(Math.max(range[1] - range[0], this.smallest), high - low);
      let from = (range[0] + range[1] - span) / 2;
      from = Math.min(Math.max(from, low), high - span);
      if (span < (high - low) * 0.999) next = [from, from + span];
    }
    if (next?.[0] === this.zoom?.[0] && next?.[1] === this.zoom?.[1]) return;
    this.zoom = next;
    this.change();
    this.onzoom(next);
  }

  /** Zooms by a factor (below 1: closer) about a point. */
  zoomBy(factor, about) {
    const [low, high] = this.domain;
    const centre = about ?? (low + high) / 2;
    this.setZoom([centre - (centre - low) * factor, centre + (high - centre) * factor]);
  }

  /** Moves by a share of what is shown. */
  pan(share) {
    const [low, high] = this.domain;
    const by = (high - low) * share;
    this.setZoom([low + by, high + by]);
  }

  setCursor(x, spoken = false) {
    if (x === this.cursor) return;
    this.cursor = x;
    this.change();
    this.oncursor(x, spoken);
  }
}

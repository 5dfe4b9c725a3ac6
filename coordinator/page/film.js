// The pictures of a film: fetched ahead, decoded, and only so many kept.

import { samplePath } from "./api.js";

const KEPT = 24;

export class Reel {
  constructor() {
    this.kept = new Map();
  }

  /** The picture of a step, once decoded; rejects if there is none. */
  picture(step) {
    let entry = this.kept.get(step);
    if (!entry) {
      const image = new Image();
      image.src = samplePath(step);
      entry = image.decode().then(
        () => image,
        (error) => {
          this.kept.delete(step);
          throw error;
        },
      );
      entry.catch(() => {});
    }
    // The most recently wanted are last; the first go.
    this.kept.delete(step);
    this.kept.set(step, entry);
    while (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return entry;
  }

  ahead(steps) {
    for (const step of steps) this.picture(step);
  }

  forget(from) {
    for (const step of [...this.kept.keys()]) if (step >= from) this.kept.delete(step);
  }
}

// From values to pixels: linear and logarithmic scales, with round ticks.

/** A scale over [low, high] onto [start, end]; `logarithmic` needs low > 0. */
export function scale(low, high, start, end, logarithmic = false) {
  const map = logarithmic ? Math.log10 : (value) => value;
  const [a, b] = [map(low), map(high)];
  const factor = (end - start) / (b - a || 1);
  const to = (value) => start + (map(value) - a) * factor;
  to.invert = (pixel) => {
    const value = a + (pixel - start) / factor;
    return logarithmic ? 10 ** value : value;
  };
  to.ticks = (count) => (logarithmic ? powers(low, high, count) : round(low, high, count));
  return to;
}

function round(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}

function powers(low, high, count) {
  const ticks = [];
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((last - first) / Math.max(1, count)));
  const factors = every > 1 ? [1] : last - first <= 2 ? [1, 2, 5] : last - first <= 4 ? [1, 3] : [1];
  for (let power = first; power <= last; power += every)
    for (const factor of factors) {
      const tick = +(factor * 10 ** power).toPrecision(6);
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  return ticks.length > 1 ? ticks : round(low, high, count);
}

/** Labels for ticks: as many digits as their distance needs. */
export function tickLabels(ticks) {
  const gaps = ticks.slice(1).map((tick, i) => Math.abs(tick - ticks[i]));
  const gap = Math.min(...gaps, Infinity);
  const largest = Math.max(...ticks.map(Math.abs));
  if (largest > 0 && (largest < 1e-3 || largest >= 1e6)) return ticks.map((tick) => (tick === 0 ? "0" : (+tick.toPrecision(3)).toExponential().replace("e+", "e")));
  if (!Number.isFinite(gap)) return ticks.map((tick) => String(+tick.toPrecision(4)));
  const uneven = gaps.some((other) => Math.abs(other - gap) > gap * 0.01);
  if (uneven) return ticks.map((tick) => (tick !== 0 && tick < 1e-3 ? tick.toExponential() : String(+tick.toPrecision(3))));
  const digits = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
  return ticks.map((tick) => tick.toFixed(Math.min(8, digits)));
}

/** The index of the value nearest to `x` in a rising list. */
export function nearest(values, x) {
  if (values.length === 0) return -1;
  const at = lowerBound(values, x);
  if (at === 0) return 0;
  if (at === values.length) return at - 1;
  return x - values[at - 1] < values[at] - x ? at - 1 : at;
}

/** The first index whose value is not below `x`. */
export function lowerBound(values, x) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

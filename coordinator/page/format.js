// Numbers, times and amounts as text. A missing number is an en dash.

const NONE = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

export const integer = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : NONE);

/** Four significant digits, in the shortest form that a person reads at a glance. */
export function number(value, digits = 4) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e7) return value.toExponential(Math.min(2, digits - 1)).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
}

export const percent = (value, digits = 1) => (known(value) ? `${(value * 100).toFixed(digits)} %` : NONE);

/** Seconds as a person would say them: 0.31 s, 42 s, 7 min 3 s, 5 h 12 min, 3 d 4 h. */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 10) return `${s < 1 ? s.toFixed(2) : s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60) % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const milliseconds = (value) => (known(value) ? (value >= 10_000 ? duration(value / 1000) : `${integer(value)} ms`) : NONE);

export const megabytes = (value) => (known(value) ? (value >= 1048576 ? `${(value / 1048576).toFixed(1)} TiB` : value >= 1024 ? `${(value / 1024).toFixed(1)} GiB` : `${integer(value)} MiB`) : NONE);

/** Seconds since 1970 as a local date and time. */
export function moment(seconds) {
  if (!known(seconds)) return NONE;
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A step on an axis: 800, 9,500, 12k, 1.2M. */
export function stepLabel(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toFixed(1)}k`;
  return (+value.toFixed(2)).toLocaleString("en-US");
}

export const plural = (count, one, many = `${one}s`) => `${integer(count)} ${count === 1 ? one : many}`;

export const isKnown = known;

/** The middle value of the known ones, or null. */
export function quantile(values, share) {
  const sorted = values.filter(known).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
}

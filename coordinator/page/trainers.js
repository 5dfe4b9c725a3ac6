// The world as rows: one trainer each, put together from `world` and the `pulse` of the same version. Who stands out, and the figures of the whole.

import { isKnown, quantile } from "./format.js";

export const ACTIVITIES = ["unknown", "starting", "rendezvous", "compute", "data", "reduce", "equilibrium", "write", "idle"];
/** A trainer whose own work takes this many times the median is slow. */
const SLOW = 1.5;
/** Seconds without a word after which a trainer is silent: twice what a healthy one takes at most. */
const SILENT = 5;

/** Rows by rank; numbers of another version of the world are left out. */
export function rows(world, pulse) {
  if (!world?.rank) return [];
  const fits = pulse?.version === world.version;
  const column = (name, i) => (fits ? (pulse[name]?.[i] ?? null) : null);
  return world.rank.map((rank, i) => {
    const step = column("step_ms", i);
    const wait = column("wait_ms", i);
    return {
      index: i,
      rank,
      node: world.node?.[i] ?? 0,
      local: world.local_rank?.[i] ?? 0,
      host: world.hosts?.[world.host?.[i]] ?? "–",
      device: world.devices?.[world.device?.[i]] ?? "–",
      pid: world.pid?.[i] ?? null,
      lanes: lanes(world.first_lane?.[i], world.end_lane?.[i]),
      activity: column("activity", i) ?? 0,
      seconds: column("seconds", i),
      silent: column("silent", i),
      step,
      wait,
      // What it took itself: where all wait for one, only this tells who that is.
      own: isKnown(step) && isKnown(wait) ? Math.max(0, step - wait) : null,
      share: isKnown(step) && isKnown(wait) && step > 0 ? Math.min(1, wait / step) : null,
      resident: column("resident_mb", i),
      memory: column("device_mb", i),
      memoryAll: column("device_total_mb", i),
    };
  });
}

function lanes(first, end) {
  if (!isKnown(first) || !isKnown(end) || end <= first) return "none";
  return end - first === 1 ? String(first) : `${first}–${end - 1}`;
}

export const nameOf = (row) => `rank ${row.rank} on ${row.host}`;

/** Rows that stand out, worst first: `{row, why: "slow" | "silent", value, median}`. */
export function standouts(all) {
  const median = quantile(all.map(({ own }) => own), 0.5);
  const found = [];
  for (const row of all) {
    if (isKnown(row.silent) && row.silent > SILENT) found.push({ row, why: "silent", value: row.silent, weight: 1000 + row.silent });
    else if (all.length > 2 && isKnown(row.own) && median > 0 && row.own > SLOW * median) found.push({ row, why: "slow", value: row.own / median, median, weight: row.own / median });
  }
  return found.sort((a, b) => b.weight - a.weight);
}

/** Figures of the whole. */
export function summary(all) {
  const counts = ACTIVITIES.map((_, code) => all.filter(({ activity }) => activity === code).length);
  const most = (key) => all.reduce((best, row) => (isKnown(row[key]) && (best === null || row[key] > best[key]) ? row : best), null);
  const spread = (key) => [0, 0.5, 0.99, 1].map((share) => quantile(all.map((row) => row[key]), share));
  const sum = (key) => (all.some((row) => isKnown(row[key])) ? all.reduce((total, row) => total + (row[key] ?? 0), 0) : null);
  return { counts, slowest: most("own"), silentest: most("silent"), step: spread("step"), wait: spread("wait"), own: spread("own"), resident: sum("resident"), memory: sum("memory"), fullest: most("memory"), nodes: new Set(all.map(({ node }) => node)).size };
}

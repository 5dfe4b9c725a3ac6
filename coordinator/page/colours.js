// The page's colours for canvases: the style sheet's own variables, read once a theme, and a ramp for amounts. The ramp's far end always stands out most
// against the background, and its lightness only goes one way, so that it reads without colour vision too.

import { tell } from "./state.js";

const DARK = [[58, 52, 120], [58, 96, 160], [52, 146, 154], [130, 190, 112], [250, 222, 96]];
const LIGHT = [[226, 201, 110], [126, 178, 112], [45, 134, 140], [46, 84, 142], [42, 26, 92]];

let read = new Map();

document.addEventListener("theme", () => {
  read = new Map();
  tell("theme");
});

/** The style sheet's variable `--name`. */
export function colour(name) {
  if (!read.has(name)) read.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "#888");
  return read.get(name);
}

const isDark = () => document.documentElement.dataset.theme === "dark";

/** Share 0 to 1 of an amount as a colour. */
export function ramp(share) {
  const stops = isDark() ? DARK : LIGHT;
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  const mixed = stops[low].map((from, i) => Math.round(from + (stops[low + 1][i] - from) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

/** Whether text on this colour has to be dark. */
export function needsDarkText(css) {
  const numbers = css.startsWith("#")
    ? [1, 3, 5].map((i) => parseInt(css.slice(i, i + 2), 16))
    : css.match(/\d+/g).map(Number);
  return 0.299 * numbers[0] + 0.587 * numbers[1] + 0.114 * numbers[2] > 124;
}

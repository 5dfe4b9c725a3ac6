// The stream of what happens from now on (`/api/live`), with its own backoff. After a loss everything is asked for again, since what was missed is not sent twice.
// A tab that nobody sees lets go of the stream after a minute.

import { get } from "./api.js";
import { state, tell } from "./state.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30_000;
const HIDDEN_FOR = 60_000;
/** A pulse comes every second; this long without one and the stream is taken for dead. */
const SILENCE = 15_000;

let source = null;
let wait = FIRST_WAIT;
let timer = 0;
let hiddenTimer = 0;
let heard = 0;
let wasLost = false;
let heldPulse = null;

function connected(connection) {
  if (state.connection === connection) return;
  state.connection = connection;
  tell("connection", connection);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function takePulse(text) {
  const pulse = parse(text);
  if (!pulse) return;
  state.pulse = pulse;
  state.pulseAt = Date.now();
  tell("pulse", pulse);
}

function close() {
  source?.close();
  source = null;
  clearTimeout(timer);
}

function open() {
  close();
  source = new EventSource("/api/live");
  heard = Date.now();
  const take = (name, use) =>
    source.addEventListener(name, (event) => {
      heard = Date.now();
      use(event.data);
    });
  source.addEventListener("open", () => {
    wait = FIRST_WAIT;
    connected("live");
    if (wasLost) tell("refresh");
    wasLost = false;
  });
  take("world", (text) => {
    const world = parse(text);
    if (!world) return;
    state.world = world;
    tell("world", world);
  });
  take("pulse", (text) => {
    // Nobody looks: keep the last one, and read it when somebody does.
    if (document.hidden) heldPulse = text;
    else takePulse(text);
  });
  for (const name of ["steps", "rewind", "event", "window"])
    take(name, (text) => {
      const value = parse(text);
      if (value) tell(name, value);
    });
  take("ended", (text) => {
    state.ended = parse(text) ?? { failed: false, reason: "", step: null };
    close();
    connected("ended");
    tell("ended", state.ended);
  });
  source.addEventListener("error", () => lost());
}

async function lost() {
  if (state.connection === "ended") return;
  close();
  wasLost = true;
  // EventSource does not say why it failed; a plain request does.
  try {
    await get("/api/run");
  } catch (error) {
    if (error.status === 401) {
      connected("signed-out");
      return;
    }
  }
  if (source || state.connection === "ended") return;
  connected("lost");
  clearTimeout(timer);
  tell("retry", wait);
  timer = setTimeout(open, wait * (0.8 + 0.4 * Math.random()));
  wait = Math.min(LONGEST_WAIT, wait * 2);
}

/** Connects, or tries again at once. */
export function connect() {
  if (state.connection === "ended") return;
  wait = FIRST_WAIT;
  open();
}

export function watchVisibility() {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) {
      hiddenTimer = setTimeout(() => {
        if (!source) return;
        close();
        wasLost = true;
      }, HIDDEN_FOR);
      return;
    }
    if (heldPulse) takePulse(heldPulse);
    heldPulse = null;
    if (!source && ["live", "lost", "connecting"].includes(state.connection)) connect();
  });
  let checked = Date.now();
  setInterval(() => {
    // After a pause of the page itself what came meanwhile is still to be read: look again the next time.
    const late = Date.now() - checked > 10_000;
    checked = Date.now();
    if (late) return;
    if (source && !document.hidden && state.connection === "live" && Date.now() - heard > SILENCE) lost();
  }, 5000);
}

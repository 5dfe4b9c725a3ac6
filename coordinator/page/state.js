// What the page knows of the run, and who wants to hear of it. Views read `state` and listen with `on`; only live.js and main.js write.

export const state = {
  run: null, // the answer of /api/run
  world: null, // the last `world`
  pulse: null, // the last `pulse`
  pulseAt: 0, // when it came, by this machine's clock, in ms
  connection: "connecting", // connecting, live, lost, ended, signed-out
  ended: null, // the last `ended`
};

const listeners = new Map();

/** Topics: run, world, pulse, steps, rewind, event, window, ended, connection, refresh (everything may have changed), theme. */
export function on(topic, listener) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic).add(listener);
}

export function tell(topic, value) {
  for (const listener of listeners.get(topic) ?? []) {
    try {
      listener(value);
    } catch (error) {
      // One view that stumbles must not silence the others.
      console.error(`${topic}:`, error);
    }
  }
}

/** Committed steps, as far as is known. */
export const stepsDone = () => state.ended?.step ?? state.pulse?.step ?? 0;

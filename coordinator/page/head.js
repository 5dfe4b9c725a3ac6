// The head of the page: name, phase, progress, time left, the banner about the connection, and the switch of colours.

import { byId, say } from "./dom.js";
import { duration, integer } from "./format.js";
import { connect } from "./live.js";
import { on, state, stepsDone } from "./state.js";

/** Seconds to the end at the present speed, or null. */
export function timeLeft() {
  const { run, pulse } = state;
  const images = run ? run.lanes * run.batch : 0;
  if (!pulse || !(pulse.images_per_second > 0) || !(images > 0) || pulse.phase === "ended" || state.ended) return null;
  return Math.max(0, ((run.steps - pulse.step) * images) / pulse.images_per_second);
}

function progress() {
  const { run, pulse } = state;
  const done = stepsDone();
  const all = run?.steps ?? 0;
  // A phase that was heard of before the connection broke is not the phase now.
  const heard = state.connection === "live" || state.connection === "ended" ? pulse?.phase : null;
  const phase = state.ended ? (state.ended.failed ? "failed" : "ended") : (heard ?? state.connection);
  byId("phase").dataset.phase = phase;
  say(byId("phase"), { lost: "no connection", "signed-out": "not signed in" }[phase] ?? phase);
  if (pulse?.reason) byId("phase").title = pulse.reason;
  say(byId("step-now"), run || pulse ? integer(done) : "–");
  say(byId("step-all"), all ? integer(all) : "–");
  const share = all > 0 ? Math.min(1, done / all) : 0;
  byId("progress-bar").style.transform = `scaleX(${share})`;
  byId("progress").setAttribute("aria-valuemax", all || 1);
  byId("progress").setAttribute("aria-valuenow", Math.min(done, all || 1));
  const left = state.connection === "live" ? timeLeft() : null;
  say(byId("time-left"), left === null || pulse?.phase !== "running" ? "" : left === 0 ? "" : `about ${duration(left)} left`);
}

function banner() {
  const box = byId("banner");
  const { connection, ended } = state;
  const retry = byId("retry");
  document.body.dataset.connection = connection;
  box.hidden = !["lost", "ended", "signed-out"].includes(connection);
  box.dataset.kind = connection === "ended" && ended?.failed ? "failed" : connection;
  retry.hidden = connection !== "lost";
  if (connection === "lost") {
    const since = state.pulseAt ? ` What you see is from ${new Date(state.pulseAt).toLocaleTimeString()}.` : "";
    say(byId("banner-text"), `The connection to the coordinator is lost; trying again.${since}`);
  } else if (connection === "ended") {
    const step = Number.isFinite(ended?.step) ? ` at step ${integer(ended.step)}` : "";
    say(byId("banner-text"), `The run ${ended?.failed ? "failed" : "has ended"}${step}. ${ended?.reason ?? ""}`);
  } else if (connection === "signed-out") say(byId("banner-text"), "Not signed in: nothing of the run can be shown.");
  progress();
}

function theme() {
  const button = byId("theme");
  const names = { system: ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };
  let choice = "system";
  try {
    choice = localStorage.getItem("began-theme") ?? "system";
  } catch {
    // No storage: as the system.
  }
  const label = () => {
    const [short, long] = names[choice] ?? names.system;
    say(button, short);
    button.setAttribute("aria-label", `${short}: colours ${long}`);
  };
  document.addEventListener("theme", (event) => {
    choice = event.detail.choice;
    label();
  });
  button.addEventListener("click", () => {
    choice = { system: "light", light: "dark", dark: "system" }[choice] ?? "light";
    document.dispatchEvent(new CustomEvent("choose-theme", { detail: choice }));
    label();
  });
  label();
}

export function startHead() {
  theme();
  byId("retry").addEventListener("click", connect);
  on("run", (run) => {
    say(byId("run-name"), run.name ?? run.run ?? "began");
    byId("run-name").title = `run ${run.run}`;
    progress();
  });
  on("pulse", progress);
  on("connection", banner);
  on("ended", banner);
}

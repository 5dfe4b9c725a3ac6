// Checkpoint, sample, stop: there only for those who have the right; a stop is asked about first. What came of it is said and shown.

import { control } from "./api.js";
import { announce, byId, say } from "./dom.js";
import { integer } from "./format.js";
import { on, state } from "./state.js";

let noticeTimer = 0;

/** A line at the foot of the page that goes away by itself, and is read out. */
export function notice(text, failed = false) {
  const box = byId("notice");
  say(box, text);
  box.dataset.failed = String(failed);
  box.hidden = false;
  announce(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (box.hidden = true), 8000);
}

const DONE = {
  checkpoint: (step) => `A checkpoint will be written after step ${step}.`,
  sample: (step) => `A sample grid will be drawn after step ${step}.`,
  stop: (step) => `The run stops after step ${step}.`,
};

async function act(action, reason, button) {
  button.disabled = true;
  try {
    const answer = await control(action, reason);
    notice(DONE[action](integer(answer?.step)));
  } catch (error) {
    notice(`${button.textContent.replace("…", "")}: ${error.message}`, true);
  } finally {
    button.disabled = false;
    show();
  }
}

function show() {
  byId("controls").hidden = !state.run?.rights?.control;
  for (const button of byId("controls").querySelectorAll("button")) button.disabled = state.connection !== "live";
}

export function startControls() {
  const dialog = byId("stop-run");
  byId("do-checkpoint").addEventListener("click", (event) => act("checkpoint", "asked for on the page", event.currentTarget));
  byId("do-sample").addEventListener("click", (event) => act("sample", "asked for on the page", event.currentTarget));
  byId("do-stop").addEventListener("click", () => {
    byId("stop-reason").value = "";
    dialog.showModal();
    byId("stop-reason").focus();
  });
  byId("stop-cancel").addEventListener("click", () => dialog.close());
  byId("stop-go").addEventListener("click", () => {
    dialog.close();
    act("stop", byId("stop-reason").value.trim() || "asked for on the page", byId("do-stop"));
  });
  on("run", show);
  on("connection", show);
}

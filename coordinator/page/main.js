// The page: starts, signs in, switches views, and keeps the head of the page. Each view is a module of its own with `mount(panel)`, loaded when first opened.
//
// For browser tests, ids that stay (each also as data-testid):
//   head      run-name phase step-now time-left progress banner retry theme controls do-checkpoint do-sample do-stop announcer notice
//   dialogs   sign-in key sign-in-go; stop-dialog stop-reason stop-cancel stop-go
//   tabs      tabs tab-V panel-V, V of overview phase samples losses world history manifest; the address ends in #/V
//   overview  verdict findings fact-* zoom-in zoom-out zoom-reset pan-left pan-right logarithmic smoothing
//             plot-losses plot-k plot-m plot-rate plot-seconds plot-score-NAME
//   phase     phase-chart phase-from phase-to phase-table
//   samples   film-canvas film-slider film-step film-first film-previous film-play film-next film-last film-speed film-follow zoomed-image
//   losses    window-slider window-step window-follow histogram-real histogram-fake moments plot-w-*
//   world     world-summary standouts map-canvas map-colour map-facts world-table world-filter world-activity
//   history   generations events event-text kind-KIND load-older
//   manifest  facts launches run-toml copy-config copy-manifest link-metrics
// Each plot holds a canvas in `.frame` (focus it for keys), a summary, and `details.as-table`.

import { get, login } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { startControls } from "./controls.js";
import { startHead } from "./head.js";
import { connect, watchVisibility } from "./live.js";
import * as overview from "./overview.js";
import { startSignIn } from "./signin.js";
import { on, state, tell } from "./state.js";

const VIEWS = {
  overview: async () => overview,
  phase: () => import("./phase.js"),
  samples: () => import("./samples.js"),
  losses: () => import("./losses.js"),
  world: () => import("./world.js"),
  history: () => import("./history.js"),
  manifest: () => import("./manifest.js"),
};
const mounted = {};
let current = null;

async function show(name) {
  if (name === current) return;
  mounted[current]?.hide?.();
  current = name;
  for (const view of Object.keys(VIEWS)) {
    const here = view === name;
    const tab = byId(`tab-${view}`);
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    if (here) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    byId(`panel-${view}`).hidden = !here;
  }
  title();
  const panel = byId(`panel-${name}`);
  if (!mounted[name]) {
    try {
      const view = await VIEWS[name]();
      mounted[name] ??= view.mount(panel);
    } catch (error) {
      console.warn(error);
      panel.replaceChildren(el("p", { class: "nothing" }, "This view could not be loaded: the coordinator does not answer."));
      return;
    }
  }
  if (current === name) mounted[name].show?.();
}

function title() {
  const view = current ? byId(`tab-${current}`).textContent : "";
  document.title = [state.run?.name, view, "began"].filter(Boolean).join(" · ");
}

function route() {
  const hash = location.hash;
  if (hash === "#view") return;
  const name = hash.replace(/^#\/?/, "");
  show(name in VIEWS ? name : (current ?? "overview"));
}

/** `#key=...` signs in and leaves the address bar. */
async function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  history.replaceState(null, "", `${location.pathname}${location.search}#/overview`);
  try {
    await login(key);
  } catch (error) {
    tell("sign-in", error.message);
  }
}

export async function load() {
  try {
    state.run = await get("/api/run");
    tell("run", state.run);
    title();
    return true;
  } catch (error) {
    if (error.status === 401) {
      state.connection = "signed-out";
      tell("connection", "signed-out");
    }
    return error.status !== 401;
  }
}

function startTabs() {
  const tabs = [...byId("tabs").querySelectorAll("[role=tab]")];
  const nameOf = (tab) => tab.id.slice(4);
  const go = (tab) => {
    location.hash = `#/${nameOf(tab)}`;
  };
  for (const tab of tabs) tab.addEventListener("click", () => go(tab));
  byId("tabs").addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined || at < 0) return;
    event.preventDefault();
    const tab = tabs[(next + tabs.length) % tabs.length];
    tab.focus();
    go(tab);
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("view").focus();
  });
}

startTabs();
startHead();
startControls();
startSignIn(async () => {
  state.connection = "connecting";
  if (!(await load())) return;
  announce("Signed in.");
  tell("refresh");
  connect();
});
on("refresh", load);
addEventListener("hashchange", () => takeKey().then(route));
watchVisibility();
await takeKey();
route();
if (await load()) connect();
// The other views, while there is time: they still open if the coordinator is gone by then.
setTimeout(() => Object.values(VIEWS).forEach((view) => view().catch(() => {})), 1500);

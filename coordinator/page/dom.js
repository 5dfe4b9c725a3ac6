// Elements from script. Never sets HTML from text: whatever the run says (names, reasons, errors) goes in as text nodes.

/** An element with attributes (`on` holds listeners; true sets, null and false leave out) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (name === "class") node.className = value;
    else if (name === "colour") node.style.setProperty("--colour", `var(--${value})`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Sets text only where it changed, so that nothing is laid out again for nothing. */
export function say(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

/** Says something to a screen reader, politely. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** A label and a value of a list of facts; returns [dt, dd]. */
export function fact(list, label, testid) {
  const value = el("dd", { "data-testid": testid }, "–");
  list.append(el("div", {}, el("dt", {}, label), value));
  return value;
}

/** At most one call every `ms`, the last one wins; a first call goes through at once. */
export function throttled(ms, call) {
  let last = -Infinity;
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    const wait = last + ms - performance.now();
    const go = () => {
      last = performance.now();
      call(...args);
    };
    if (wait <= 0) go();
    else timer = setTimeout(go, wait);
  };
}

/** A table whose head cells are column headings. */
export function table(caption, heads, rows, attributes = {}) {
  return el(
    "table",
    attributes,
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell))))),
  );
}

/** A small picture of filled paths in a 16 x 16 field: the same everywhere, whatever fonts there are. */
export function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(space, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

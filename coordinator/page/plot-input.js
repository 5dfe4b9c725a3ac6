// Hands on a plot: drag to zoom, wheel (with Ctrl, or after a click), pinch, double click, keys. Knows the plot's pixels, nothing of its data.

/** `plot` has `frame` (the element), `link`, `xAt(pixel)`, `select(range or null)` and `step(direction)`. */
export function handle(plot) {
  const { frame, link } = plot;
  const pointers = new Map();
  let dragFrom = null;
  let pinch = null;
  const at = (event) => event.clientX - frame.getBoundingClientRect().left;

  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      pinch = { distance: Math.abs(a - b), centre: plot.xAt((a + b) / 2), domain: [...link.domain] };
      dragFrom = null;
      plot.select(null);
    } else if (event.pointerType === "mouse" || event.pointerType === "pen") {
      dragFrom = at(event);
      frame.setPointerCapture(event.pointerId);
    } else link.setCursor(plot.xAt(at(event)));
  });

  frame.addEventListener("pointermove", (event) => {
    const x = at(event);
    if (pointers.has(event.pointerId)) pointers.set(event.pointerId, x);
    if (pinch && pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const factor = pinch.distance / Math.max(12, Math.abs(a - b));
      const [low, high] = pinch.domain;
      const span = (high - low) * factor;
      const left = Math.min(a, b) + Math.abs(a - b) / 2;
      const share = plot.shareAt(left);
      link.setZoom([pinch.centre - span * share, pinch.centre + span * (1 - share)]);
      return;
    }
    if (dragFrom !== null && Math.abs(x - dragFrom) > 4) plot.select([dragFrom, x]);
    link.setCursor(plot.xAt(x));
  });

  const finish = (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size < 2) pinch = null;
    if (dragFrom !== null && event.type === "pointerup") {
      const x = at(event);
      if (Math.abs(x - dragFrom) > 4) link.setZoom([plot.xAt(Math.min(dragFrom, x)), plot.xAt(Math.max(dragFrom, x))]);
    }
    dragFrom = null;
    plot.select(null);
  };
  frame.addEventListener("pointerup", finish);
  frame.addEventListener("pointercancel", finish);
  frame.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && dragFrom === null) link.setCursor(null);
  });
  frame.addEventListener("dblclick", () => link.setZoom(null));

  frame.addEventListener(
    "wheel",
    (event) => {
      // A page of plots must still scroll: the wheel belongs to a plot only once it was asked for.
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== frame) return;
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) link.pan(event.deltaX / 1000);
      else link.zoomBy(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 240))), plot.xAt(at(event)));
    },
    { passive: false },
  );

  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => (event.shiftKey ? link.pan(-0.2) : plot.step(-1)),
      ArrowRight: () => (event.shiftKey ? link.pan(0.2) : plot.step(1)),
      PageUp: () => plot.step(-10),
      PageDown: () => plot.step(10),
      Home: () => plot.step(-Infinity),
      End: () => plot.step(Infinity),
      "+": () => link.zoomBy(0.5, link.cursor),
      "=": () => link.zoomBy(0.5, link.cursor),
      "-": () => link.zoomBy(2, link.cursor),
      0: () => link.setZoom(null),
      Escape: () => (link.cursor === null ? link.setZoom(null) : link.setCursor(null)),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
}

// Light or dark, settled before the first paint: what the visitor chose, or else what the system prefers. A plain script (not a module), so that nothing flashes.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try {
      return localStorage.getItem("began-theme") ?? "system";
    } catch {
      return "system";
    }
  };
  const apply = () => {
    const choice = chosen();
    const theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
    document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new CustomEvent("theme", { detail: { choice, theme } }));
  };
  system.addEventListener("change", apply);
  document.addEventListener("choose-theme", (event) => {
    try {
      localStorage.setItem("began-theme", event.detail);
    } catch {
      // Without storage the choice lasts as long as the page does not.
    }
    apply();
  });
  apply();
})();

// The sign-in dialog: asks for a page key when the coordinator says 401. The key goes to the coordinator and nowhere else; it is not kept.

import { login } from "./api.js";
import { byId, say } from "./dom.js";
import { on } from "./state.js";

export function startSignIn(onsigned) {
  const dialog = byId("sign-in");
  const key = byId("key");
  const wrong = byId("sign-in-error");
  const go = byId("sign-in-go");
  const submit = async () => {
    if (!key.value.trim()) return key.focus();
    go.disabled = true;
    try {
      await login(key.value.trim());
      key.value = "";
      say(wrong, "");
      dialog.close();
      onsigned();
    } catch (error) {
      say(wrong, error.message);
      key.select();
    } finally {
      go.disabled = false;
    }
  };
  byId("sign-in-form").addEventListener("submit", (event) => {
    // The key goes by fetch: a form that sends itself would put it into the address.
    event.preventDefault();
    submit();
  });
  on("sign-in", (message) => {
    if (dialog.open) return;
    say(wrong, message && !/who you are/i.test(message) ? message : "");
    dialog.showModal();
    key.focus();
  });
}

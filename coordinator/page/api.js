// Requests to the coordinator. Every failure is an `ApiError` with a sentence a person can read; a 401 also asks for a sign-in.

import { tell } from "./state.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The coordinator does not answer.");
  }
  if (answer.ok) return answer;
  let message = `The coordinator answered ${answer.status}.`;
  try {
    message = (await answer.json()).error ?? message;
  } catch {
    // Not JSON: the number has to do.
  }
  if (answer.status === 401 && path !== "/api/login") tell("sign-in", message);
  throw new ApiError(answer.status, message);
}

export async function get(path, signal) {
  return (await request(path, { signal })).json();
}

export async function post(path, body) {
  const answer = await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

export const login = (key) => post("/api/login", { key });
export const control = (action, reason) => post("/api/control", { action, reason });
export const samplePath = (step) => `/api/samples/${step}`;

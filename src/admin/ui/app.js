// Polls admin and shows what it says. Whatever comes from there is set as text, never as markup.
"use strict";

const POLL_MS = 2000;
const COLUMNS = [
  ["id", (e) => e.id],
  ["address", (e) => e.address],
  ["state", (e) => e.state, (e) => ({ healthy: "good", ejected: "warn" })[e.state] ?? "bad"],
  ["breaker", (e) => e.breaker.state.replace("_", "-")],
  ["health", (e) => e.health],
  ["identity", (e) => (e.mtls ? e.peer : "plain")],
  ["zone", (e) => e.zone ?? "–"],
  ["weight", (e) => e.weight, () => "number"],
  ["in flight", (e) => e.in_flight, () => "number"],
  ["latency", (e) => `${e.latency_ms.toFixed(1)} ms`, () => "number"],
];

const at = (id) => document.getElementById(id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

function table(endpoints) {
  const made = element("table");
  const head = made.appendChild(element("thead")).appendChild(element("tr"));
  for (const [name, , look] of COLUMNS) head.append(element("th", name, look?.({}) === "number" ? "number" : ""));
  const body = made.appendChild(element("tbody"));
  for (const endpoint of endpoints) {
    const row = body.appendChild(element("tr"));
    for (const [, value, look] of COLUMNS) row.append(element("td", value(endpoint), look?.(endpoint)));
  }
  return made;
}

function upstream(one) {
  const made = element("div");
  const title = made.appendChild(element("h3", one.service));
  const look = one.healthy === 0 ? "bad" : one.healthy < one.endpoints.length ? "warn" : "good";
  title.append(" ", element("span", `${one.healthy} of ${one.endpoints.length} healthy`, look));
  if (one.endpoints.length > 0) made.append(table(one.endpoints));
  return made;
}

function showReadiness(ready) {
  const state = at("state");
  state.textContent = ready.status;
  state.className = `badge ${ready.status === "ready" ? "good" : "warn"}`;
  const missing = ready.missing ?? [];
  at("note").hidden = missing.length === 0;
  at("note").textContent = `Waiting for: ${missing.join(", ")}`;
}

function showEndpoints(listed) {
  at("service").textContent = listed.service;
  at("id").textContent = listed.id;
  document.title = `${listed.service} · outrigger`;
  at("app").replaceChildren(table(listed.app.endpoints));
  const none = element("p", "None declared.", "quiet");
  at("upstreams").replaceChildren(...(listed.upstreams.length > 0 ? listed.upstreams.map(upstream) : [none]));
}

function span(seconds) {
  if (seconds <= 0) return "ended";
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([s]) => seconds >= s);
  return `in ${Math.floor(seconds / size)} ${unit}`;
}

function showCertificates(certs) {
  const show = (id, end, left) => {
    at(id).textContent = certs ? `${end} (${span(left)})` : "none yet";
    at(id).className = certs && left > 600 ? "" : "bad";
  };
  at("spiffe").textContent = certs?.spiffe_id ?? "none yet";
  show("leaf", certs?.not_after, certs?.seconds_left);
  show("roots", certs?.roots_not_after, certs?.roots_seconds_left);
}

async function ask(path) {
  // A sidecar that is not ready says so with 503, and in JSON all the same.
  const response = await fetch(path, { signal: AbortSignal.timeout(5000) });
  return response.json();
}

async function refresh() {
  try {
    const [ready, listed, certs] = await Promise.all([ask("readyz"), ask("endpoints"), ask("certs")]);
    showReadiness(ready);
    showEndpoints(listed);
    showCertificates(certs);
  } catch {
    at("state").textContent = "unreachable";
    at("state").className = "badge bad";
  }
  setTimeout(refresh, POLL_MS);
}

refresh();

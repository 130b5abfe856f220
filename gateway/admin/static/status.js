// The status page: reads /status.json and renders it.
//
// Every text may come from a stranger (names of models, Ollama's errors), so nothing here makes
// markup from a string: elements are created, and text goes in as text. The fields are described
// in gateway/admin/status.py.

const REFRESH_SECONDS = 5;
const TIMEOUT_MILLISECONDS = 10_000;
const SHOWN_ROWS = 30;
const SHOWN_FAILURES = 15;

const PHASES = {
  queue: "queued for a slot",
  connect: "connecting to Ollama",
  first_byte: "loading or working",
  relay: "responding",
};

// Formatting: values to texts.

const number = new Intl.NumberFormat("en");

function count(amount, noun) {
  return `${number.format(amount)} ${noun}${amount === 1 ? "" : "s"}`;
}

/** "4.7 GB", in powers of a thousand like `ollama list`. */
function size(bytes) {
  if (bytes === null) return "-";
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(bytes / unit < 9.95 ? 1 : 0)} ${name}`;
  }
  return `${bytes} B`;
}

/** "3 minutes": the largest unit, rounded down, for ages. */
function span(seconds) {
  for (const [unit, name] of [[86_400, "day"], [3_600, "hour"], [60, "minute"], [1, "second"]]) {
    if (seconds >= unit) return count(Math.floor(seconds / unit), name);
  }
  return "less than a second";
}

/** "40 ms", "1.2 s", "95 s": a measured time. */
function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return `${seconds < 9.95 ? seconds.toFixed(1) : number.format(Math.round(seconds))} s`;
}

/** "90 s", "10 min": a time limit, exact. */
function limit(seconds) {
  if (seconds >= 300 && seconds % 60 === 0) return `${seconds / 60} min`;
  return `${Number(seconds.toFixed(2))} s`;
}

function rate(perSecond) {
  return perSecond < 9.95 ? perSecond.toFixed(1) : number.format(Math.round(perSecond));
}

/** "2030-01-31 12:00 UTC", of a moment in RFC 3339. */
function minute(moment) {
  return `${new Date(moment).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** Seconds from one moment to another. */
function between(earlier, later) {
  return (new Date(later) - new Date(earlier)) / 1000;
}

/** "3 minutes ago"; both moments are the gateway's, whatever this machine's clock says. */
function ago(moment, now) {
  const seconds = between(moment, now);
  return seconds < 1 ? "just now" : `${span(seconds)} ago`;
}

// Building elements. A child is an element or a text; empty ones are left out.

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

/** One line, and smaller ones below it. */
function lines(first, ...others) {
  const small = others.filter((line) => line !== null && line !== "");
  return element("span", "", first, ...small.map((line) => element("small", "", line)));
}

function code(text) {
  return element("code", "", text);
}

/** A text in which the parts between backticks are code. */
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? code(part) : part));
}

function codeSpan(text) {
  return text ? element("span", "", ...withCode(text)) : "";
}

/** A number; on a phone a zero is left out. */
function quantity(amount) {
  return element("span", amount ? "" : "zero", number.format(amount));
}

function busy(amount) {
  return element("span", amount ? "busy" : "zero", number.format(amount));
}

function requestsAndFailed(totals) {
  if (!totals.failed) return quantity(totals.requests);
  const failed = element("span", "failed", `${number.format(totals.failed)} failed`);
  return lines(number.format(totals.requests), failed);
}

/**
 * Replace the rows of the table in the section `id`.
 *
 * @param {string} id - of the section, whose table has the columns.
 * @param {Array<Array>} rows - one cell for each column: an element or a text.
 * @param {{empty?: string, shown?: number}} options - what to say without rows (nothing: hide the
 *   section), and how many rows to show.
 */
function table(id, rows, { empty = "", shown = Infinity } = {}) {
  const section = document.getElementById(id);
  const columns = [...section.querySelectorAll("thead th")];
  const body = section.querySelector("tbody");
  body.replaceChildren(...rows.slice(0, shown).map((cells) => row(columns, cells)));
  const more = rows.length - shown;
  const note = rows.length === 0 ? empty : more > 0 ? `And ${number.format(more)} more.` : "";
  section.querySelector(".note").textContent = note;
  section.querySelector("thead").hidden = rows.length === 0;
  section.hidden = rows.length === 0 && !empty;
}

function row(columns, cells) {
  if (cells.length !== columns.length) throw new Error("a row needs a cell for each column");
  const made = element("tr", "");
  // On a phone rows are shown as cards, and browsers forget that they are rows.
  made.setAttribute("role", "row");
  cells.forEach((content, index) => {
    const column = columns[index];
    const cell = element(index ? "td" : "th", column.className, content);
    if (index) cell.dataset.label = column.textContent;
    else cell.scope = "row";
    cell.setAttribute("role", index ? "cell" : "rowheader");
    made.append(cell);
  });
  return made;
}

// One function for each section. Each gets the complete status.

function renderHeader(status) {
  const word = status.ready ? "ready" : "not ready";
  document.title = `${word}: Ollama gateway`;
  const state = document.getElementById("state");
  state.textContent = word;
  state.className = `state ${status.ready ? "good" : "bad"}`;
  const about = `version ${status.version}, up for ${span(status.uptime)}`;
  document.getElementById("about").textContent = about;
}

let shownProblems = "";

function renderProblems({ problems }) {
  // Screen readers read these aloud when they are replaced, so that is done only on a change.
  if (shownProblems === JSON.stringify(problems)) return;
  shownProblems = JSON.stringify(problems);
  const shown = problems.map((problem) =>
    element(
      "div",
      `notice ${problem.urgent ? "urgent" : "warning"}`,
      element("h2", "", ...withCode(problem.message)),
      element("p", "", ...withCode(problem.remedy)),
    ),
  );
  document.getElementById("problems").replaceChildren(...shown);
}

function renderOverview({ ollama, scheduler, requests, outcomes }) {
  document.getElementById("overview").replaceChildren(
    ollamaTile(ollama),
    tile(
      "Active requests",
      element("p", "figure", `${scheduler.active} of ${scheduler.max_active}`),
      meter(scheduler.active, scheduler.max_active),
      scheduler.draining ? "shutting down: no new requests" : "slots in use",
    ),
    tile(
      "Queued requests",
      element("p", "figure", `${scheduler.queued} of ${scheduler.max_queued}`),
      meter(scheduler.queued, scheduler.max_queued, { warns: true }),
      scheduler.queued ? `the oldest for ${span(scheduler.oldest_wait)}` : "queue empty",
    ),
    tile(
      "Requests since the start",
      element("p", "figure", number.format(requests)),
      requests ? succeededAndFailed(requests, outcomes.ok ?? 0) : "none yet",
    ),
  );
}

function succeededAndFailed(requests, succeeded) {
  const failed = requests - succeeded;
  return `${number.format(succeeded)} succeeded, ${number.format(failed)} failed`;
}

function ollamaTile(ollama) {
  const state = ollama.up ? "reachable" : "unreachable";
  const list =
    ollama.model_count === null
      ? "no model list yet"
      : `${count(ollama.model_count, "model")}, list ${span(ollama.list_age)} old`;
  const resident = ollama.resident.length ? ollama.resident.join(", ") : "none known";
  return tile(
    "Ollama",
    element("p", `figure ${ollama.up ? "good" : "bad"}`, state),
    ollama.url,
    list,
    `models in memory: ${resident}`,
    ollama.max_loaded === null ? "" : `at most ${ollama.max_loaded} at once`,
  );
}

/** A heading, then elements, and texts as small print. */
function tile(title, ...content) {
  const shown = content.filter((each) => each !== "");
  const wrap = (each) => (typeof each === "string" ? element("small", "", each) : each);
  return element("section", "tile", element("h2", "", title), ...shown.map(wrap));
}

function meter(value, max, { warns = false } = {}) {
  const made = document.createElement("meter");
  made.max = Math.max(max, 1);
  made.value = value;
  if (warns) {
    // With an optimum a meter turns yellow and red by itself.
    Object.assign(made, { low: max * 0.5, high: max * 0.8, optimum: 0 });
  }
  made.setAttribute("aria-label", `${value} of ${max}`);
  return made;
}

function renderModels({ models, now }) {
  const rows = models.map((model) => [
    lines(model.name, model.modified_at ? `changed ${ago(model.modified_at, now)}` : ""),
    modelSize(model),
    model.cloud ? "-" : contextWindow(model.context),
    model.cloud ? "-" : loaded(model),
    speed(model.statistics),
    timeouts(model.timeouts),
    busy(model.active),
    busy(model.queued),
    requestsAndFailed(model.totals),
    quantity(model.totals.tokens_out),
  ]);
  table("models", rows, { empty: "Ollama has no models, or was not contacted yet." });
}

function modelSize(model) {
  if (!model.listed) return "not in Ollama's list";
  const where = model.cloud ? "runs on ollama.com" : size(model.size_bytes);
  const kind = [model.parameter_size, model.quantization].filter(Boolean).join(" ");
  return kind ? lines(kind, where) : where;
}

/** In tokens; the remedy for prompts that were too long is among the problems. */
function contextWindow({ window, prompts_truncated: truncated, prompts_rejected: rejected }) {
  return lines(
    window === null ? "-" : number.format(window),
    truncated ? element("span", "failed", `${count(truncated, "prompt")} truncated`) : "",
    rejected ? `${count(rejected, "prompt")} rejected` : "",
  );
}

function loaded(model) {
  const word = model.loaded ? element("strong", "", "yes") : model.resident ? "loading" : "no";
  const { load } = model.statistics;
  return lines(word, load.count ? `loads in ${duration(load.mean)}` : "");
}

function speed({ generation_rate: generation, service }) {
  return lines(
    generation.count ? `${rate(generation.mean)} tokens/s` : "-",
    service.count ? `${duration(service.mean)} per response` : "",
  );
}

function timeouts(limits) {
  if (limits === null) return "-";
  const { total, first_byte: first } = limits;
  const same = first.seconds === total.seconds && first.reason === total.reason;
  return lines(
    limit(total.seconds),
    total.reason,
    same ? "" : `first byte of a stream: ${limit(first.seconds)}, ${first.reason}`,
  );
}

function renderInFlight({ in_flight: requests }) {
  const rows = requests.map((request) => [
    request.key ?? "-",
    request.model ?? "-",
    span(request.duration),
    PHASES[request.phase] ?? request.phase,
    quantity(request.heartbeats),
    lines(request.route, code(request.request_id)),
  ]);
  table("in-flight", rows, { shown: SHOWN_ROWS });
}

function renderQueues({ scheduler }) {
  const rows = scheduler.queues.map((queue) => [
    queue.key,
    queue.model,
    busy(queue.queued),
    span(queue.oldest_wait),
    queue.expected_wait === null ? "-" : `in ${span(queue.expected_wait)}`,
  ]);
  table("queues", rows, { shown: SHOWN_ROWS });
}

function renderFailures({ failures, now }) {
  const rows = failures.map((failure) => [
    lines(ago(failure.ended_at, now), `after ${duration(failure.duration)}`),
    lines(element("strong", "failed", failure.outcome), progress(failure)),
    lines(failure.meaning, codeSpan(failure.error ?? ""), codeSpan(failure.remedy)),
    lines(failure.key ?? "no valid key", failure.model ?? ""),
    lines(`${failure.method} ${failure.route}`, code(failure.request_id)),
  ]);
  table("failures", rows, { empty: "No request has failed since the start.", shown: SHOWN_FAILURES });
}

/** The status that was sent, and how far the request got. */
function progress({ status, heartbeats, phase, replayed }) {
  if (replayed) return `${status}, replayed to the retry of a request that failed after heartbeats`;
  const sent = status === undefined ? "" : `${status}, `;
  const sentBefore = heartbeats ? `after ${count(heartbeats, "heartbeat")}, ` : "";
  return `${sent}${sentBefore}in phase ${phase}`;
}

function renderOutcomes({ requests, outcomes }) {
  const rows = Object.entries(outcomes).map(([outcome, amount]) => [
    outcome,
    number.format(amount),
    `${((100 * amount) / requests).toFixed(1)}%`,
  ]);
  table("outcomes", rows, { empty: "No request has ended yet." });
}

function renderKeys({ keys, now }) {
  const rows = keys.map((key) => [
    key.name,
    key.scopes.join(", "),
    expiry(key, now),
    requestsAndFailed(key.totals),
    quantity(key.totals.tokens_in),
    quantity(key.totals.tokens_out),
  ]);
  table("keys", rows, { empty: "There are no keys." });
}

function expiry(key, now) {
  if (key.state !== "active") return element("span", "failed", key.state);
  if (key.expires_at === null) return "never";
  return lines(`in ${span(between(now, key.expires_at))}`, minute(key.expires_at));
}

function renderAsOf({ now }) {
  const moment = now.replace("T", " ").replace("Z", " UTC");
  const text = `As of ${moment}; auto-refreshes every ${REFRESH_SECONDS} s.`;
  document.getElementById("as-of").textContent = text;
}

const SECTIONS = [
  renderHeader,
  renderProblems,
  renderOverview,
  renderModels,
  renderInFlight,
  renderQueues,
  renderFailures,
  renderOutcomes,
  renderKeys,
  renderAsOf,
];

// Talking to the gateway.

let timer = null;

/** A response's JSON. An error becomes an exception with the gateway's own message. */
async function request(path, options = {}) {
  // Not relative to the page's own address: fetch rejects one that holds a key.
  const response = await fetch(new URL(path, location.origin), {
    cache: "no-store",
    headers: { Accept: "application/json" },
    signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    ...options,
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error?.message ?? `status ${response.status}`);
  return body;
}

/** Read the status, show it, and do so again after a while, as long as the page is visible. */
async function refresh() {
  clearTimeout(timer);
  const connection = document.getElementById("connection");
  try {
    const status = await request("/status.json");
    connection.hidden = true;
    // While text is selected, to be copied, it must not be replaced.
    if (document.getSelection().isCollapsed) SECTIONS.forEach((section) => section(status));
  } catch (error) {
    const message = `The status could not be read: ${error.message}. Trying again.`;
    if (connection.textContent !== message) connection.textContent = message;
    connection.hidden = false;
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, REFRESH_SECONDS * 1000);
}

async function refreshModels(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  const result = document.getElementById("refresh-result");
  button.disabled = true;
  try {
    const { model_count: models } = await request("/refresh", { method: "POST" });
    result.textContent = `Ollama lists ${count(models, "model")}.`;
  } catch (error) {
    result.textContent = error.message;
  }
  button.disabled = false;
  await refresh();
}

document.getElementById("refresh").addEventListener("submit", refreshModels);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();

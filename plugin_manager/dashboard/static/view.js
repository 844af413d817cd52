// What the page looks like for a given model. Nothing here asks or changes anything.

import { h } from "./dom.js";

const ICONS = {
  search: "M10.5 4a6.5 6.5 0 1 0 4 11.6L19 20M10.5 4a6.5 6.5 0 0 1 4 11.6",
  refresh: "M20 12a8 8 0 1 1-2.3-5.7M20 3v4.5h-4.5",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  close: "M6 6l12 12M18 6L6 18",
  pause: "M9 6v12M15 6v12",
  resume: "M8 5.5v13l10-6.5z",
  cancel: "M7 7l10 10M17 7L7 17",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  warning: "M12 4l9 16H3zM12 10v4.5M12 17.2v.3",
  check: "M5 12.5l4.5 4.5L19 7.5",
  back: "M9 7l-5 5 5 5M4 12h10a6 6 0 0 1 6 6",
  download: "M12 4v11M7.5 11L12 15.5 16.5 11M5 20h14",
};

export function icon(name) {
  return h("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" }, h("path", { d: ICONS[name] }));
}

// --- words ---------------------------------------------------------------------------------------

export function sizeText(bytes) {
  let count = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(count) < 999.95) return unit === "B" ? `${Math.round(count)} B` : `${count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

function timeLeft(seconds) {
  if (seconds === null) return "";
  const rest = Math.round(seconds);
  if (rest < 60) return `${rest} s left`;
  if (rest < 3600) return `${Math.floor(rest / 60)} min ${rest % 60} s left`;
  return `${Math.floor(rest / 3600)} h ${Math.floor((rest % 3600) / 60)} min left`;
}

export function ago(moment, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(moment)) / 1000);
  if (Number.isNaN(seconds)) return moment;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  const days = Math.round(seconds / 86400);
  return days === 1 ? "yesterday" : days < 30 ? `${days} days ago` : moment.slice(0, 10);
}

function time(moment) {
  return h("time", { datetime: moment, title: moment }, ago(moment));
}

function hue(text) {
  let sum = 0;
  for (const char of text) sum = (sum * 31 + char.codePointAt(0)) % 4093;
  return sum % 8;
}

export const nameOf = (plugin) => plugin.slice(plugin.indexOf("/") + 1);
const publisherOf = (plugin) => plugin.slice(0, plugin.indexOf("/"));

const STATES = {
  available: ["Available", "plain"],
  incompatible: ["Not for this host", "muted"],
  queued: ["Queued", "busy"],
  downloading: ["Downloading", "busy"],
  installing: ["Installing", "busy"],
  waiting: ["Waiting to retry", "warn"],
  paused: ["Paused", "warn"],
  failed: ["Failed", "bad"],
  installed: ["Installed", "good"],
  trial: ["On trial", "warn"],
  update: ["Update available", "busy"],
  yanked: ["Withdrawn", "warn"],
  blocked: ["Blocked", "bad"],
  damaged: ["Damaged", "bad"],
  evicted: ["Not on this disk", "muted"],
};

export const FILTERS = {
  all: ["All", () => true],
  installed: ["Installed", (card) => card.active !== null],
  updates: ["Updates", (card) => card.actions.includes("upgrade")],
  available: ["Available", (card) => card.active === null],
  attention: ["Needs attention", (card) => ["bad", "warn"].includes(STATES[card.state]?.[1])],
};

const LABELS = {
  install: () => "Install",
  upgrade: (card) => `Upgrade to ${card.newest}`,
  rollback: (card) => `Roll back to ${card.previous}`,
  pause: () => "Pause",
  resume: () => "Resume",
  cancel: () => "Cancel",
  retry: () => "Try again",
  dismiss: () => "Dismiss",
  repair: () => "Repair",
  fetch: () => "Download again",
  confirm: (card) => `Keep ${card.active.version}`,
  verify: () => "Verify",
  pin: () => "Pin",
  unpin: () => "Unpin",
  hold: () => "Hold version",
  unhold: () => "Allow upgrades",
  uninstall: () => "Uninstall",
};

const HINTS = {
  confirm: "It works: end its trial",
  pin: "Never remove its files to make room",
  unpin: "Its files may be removed to make room",
  hold: "Keep upgrades away",
  unhold: "Let upgrades change it again",
  verify: "Check every byte against what was signed",
};

// What stands on a card; everything else is in its details.
const ON_CARD = ["pause", "resume", "cancel", "install", "repair", "fetch", "retry", "dismiss", "confirm", "upgrade"];

function onCard(card, job) {
  if (job?.error?.family === "no-space") return ["room", "dismiss"];
  const found = card.actions.filter((one) => ON_CARD.includes(one));
  if (card.actions.includes("rollback") && ((card.state === "blocked" && !found.length) || card.state === "trial")) {
    found.splice(1, 0, "rollback");
  }
  if (card.outdated && !card.actions.includes("upgrade") && card.actions.includes("unhold")) found.push("unhold");
  return found.slice(0, 2);
}

function button(action, card, busy, more = {}) {
  const kind = more.kind ?? "secondary";
  const label = action === "room" ? "Free space…" : LABELS[action](card);
  return h(
    "button",
    {
      type: "button",
      key: action,
      class: `button ${kind}`,
      "data-action": action,
      "data-plugin": card.plugin,
      "aria-label": `${label}: ${card.plugin}`,
      title: HINTS[action],
      "aria-disabled": busy ? "true" : null,
    },
    label,
  );
}

// --- the top -------------------------------------------------------------------------------------

const CONNECTIONS = {
  live: ["Live", "good"],
  lost: ["Reconnecting…", "warn"],
  locked: ["Locked", "bad"],
  opening: ["Connecting…", "muted"],
};

export function top(model, view) {
  const [word, tone] = CONNECTIONS[view.connection];
  const store = model.store;
  return [
    h("div", { class: "brand" },
      h("svg", { viewBox: "0 0 32 32", class: "mark", "aria-hidden": "true" },
        h("rect", { width: "32", height: "32", rx: "8" }),
        h("path", { d: "M9 10h6v6H9zM17 10h6v6h-6zM9 18h6v6H9z" }),
        h("path", { class: "plus", d: "M20 17.5v6M17 20.5h6" })),
      h("div", {},
        h("h1", {}, "Plugins"),
        h("p", { class: "where", title: store?.directory }, store ? store.directory : "…"))),
    h("div", { class: "tools" },
      h("span", { class: `pulse ${tone}`, role: "status" }, h("span", { class: "dot", "aria-hidden": "true" }), word),
      h("button", { type: "button", class: "button secondary", "data-action": "update", "aria-disabled": view.busy.has("update") ? "true" : null },
        icon("refresh"), h("span", { class: "wide" }, view.busy.has("update") ? "Checking…" : "Check for updates"),
        h("span", { class: "narrow" }, "Check")),
      h("button", { type: "button", class: "button quiet square", "data-action": "theme", "aria-label": `Theme: ${view.theme}. Change`, title: `Theme: ${view.theme}` }, icon("theme"))),
  ];
}

// --- alerts --------------------------------------------------------------------------------------

export function alerts(model, view) {
  if (view.connection === "locked") {
    return [h("div", { class: "alert bad", role: "alert" }, icon("warning"),
      h("div", {}, h("strong", {}, "This page is locked."),
        view.why && h("p", {}, `${capital(view.why)}.`),
        h("p", {}, "Run 'pluginctl dashboard' and open the link that it prints. A link is good for one browser.")))];
  }
  const shown = (model.problems ?? []).map((one, index) =>
    h("div", { class: "alert bad", role: "alert", key: `problem-${index}` }, icon("warning"),
      h("div", {}, h("strong", {}, one.message), one.remedy && h("p", {}, one.remedy))));
  if (model.jobs?.paused) {
    shown.push(h("div", { class: "alert warn", key: "paused" }, icon("pause"),
      h("div", {}, h("strong", {}, "All downloads are paused.")),
      h("button", { type: "button", class: "button secondary", "data-action": "resume-all" }, "Resume all")));
  }
  const active = (model.jobs?.jobs ?? []).filter((job) => ["running", "queued"].includes(job.state));
  if (active.length > 1 && !model.jobs.paused) {
    const moving = active.filter((job) => job.progress);
    const left = moving.reduce((sum, job) => sum + job.progress.total_bytes - job.progress.transferred_bytes, 0);
    const speed = moving.reduce((sum, job) => sum + job.progress.bytes_per_second, 0);
    shown.push(h("div", { class: "alert plain", key: "downloads" }, icon("download"),
      h("div", {}, h("strong", {}, `${active.length} downloads`), h("p", { class: "numbers" }, [`${sizeText(left)} to go`, speed ? `${sizeText(speed)}/s` : ""].filter(Boolean).join(" · "))),
      h("button", { type: "button", class: "button secondary", "data-action": "pause-all" }, "Pause all")));
  }
  return shown;
}

// --- the cards -----------------------------------------------------------------------------------

export function plugins(model, view) {
  const all = model.plugins ?? [];
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = all.filter((card) => {
    const text = `${card.plugin} ${card.summary}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const shown = found.filter(FILTERS[view.filter][1]);
  const updates = all.filter(FILTERS.updates[1]);
  return [
    h("div", { class: "toolbar" },
      h("h2", { id: "plugins-heading", class: "unseen" }, "Plugins"),
      h("div", { class: "filters", role: "group", "aria-label": "Show" },
        Object.entries(FILTERS).map(([name, [label, matches]]) => {
          const count = found.filter(matches).length;
          return h("button", { type: "button", key: name, class: "filter", "data-action": "filter", "data-filter": name, "aria-pressed": String(view.filter === name) },
            label, h("span", { class: "count" }, String(count)));
        })),
      h("div", { class: "search" }, icon("search"),
        h("input", { type: "search", id: "search", placeholder: "Search", "aria-label": "Search plugins", autocomplete: "off", spellcheck: "false" })),
      updates.length > 1 && h("button", { type: "button", class: "button primary", key: "upgrade-all", "data-action": "upgrade-all" }, `Upgrade all (${updates.length})`)),
    shown.length
      ? h("ul", { class: "cards", key: "cards" }, shown.map((card) => h("li", { key: card.plugin }, cardOf(card, model, view))))
      : h("div", { class: "empty", key: "empty" }, emptyText(model, view)),
  ];
}

function emptyText(model, view) {
  if (model.plugins === undefined) return h("p", {}, view.connection === "locked" ? "Nothing to show while the page is locked." : "Looking at the store…");
  if (!model.plugins.length && model.problems?.length) return [h("p", { class: "lead" }, "Nothing can be shown."), h("p", {}, "What is wrong is said at the top of the page.")];
  if (view.search) return [h("p", { class: "lead" }, "Nothing matches."), h("p", {}, "Try fewer words, or another filter.")];
  if (view.filter !== "all") return [h("p", { class: "lead" }, "Nothing here."), h("p", {}, view.filter === "attention" ? "All plugins are in good order." : "No plugin is in this list.")];
  return [h("p", { class: "lead" }, "No plugins yet."), h("p", {}, "“Check for updates” asks the repository what it offers.")];
}

function avatar(plugin) {
  return h("span", { class: `avatar hue-${hue(plugin)}`, "aria-hidden": "true" }, nameOf(plugin).slice(0, 2));
}

function chip(card) {
  const [label, tone] = STATES[card.state] ?? [card.state, "plain"];
  return h("span", { class: `chip ${tone}`, "data-state": card.state }, label);
}

function cardOf(card, model, view) {
  const job = jobOf(card, model);
  const busy = view.busy.has(card.plugin);
  const actions = onCard(card, job);
  const id = `card-${card.plugin.replace("/", "--")}`;
  return h("article", { class: `card ${card.state}`, "aria-labelledby": id, "data-plugin-card": card.plugin, "aria-busy": busy ? "true" : null },
    h("div", { class: "head" },
      avatar(card.plugin),
      h("div", { class: "title" },
        h("h3", { id },
          h("button", { type: "button", class: "name", "data-action": "details", "data-plugin": card.plugin }, h("span", { class: "publisher" }, `${publisherOf(card.plugin)}/`), h("wbr"), nameOf(card.plugin))),
        versionLine(card)),
      chip(card)),
    h("p", { class: "summary", dir: "auto" }, h("bdi", {}, card.summary || "No description.")),
    ["downloading", "installing", "paused", "queued", "waiting"].includes(card.state) && progressOf(card, job),
    reasonOf(card, job, busy),
    h("div", { class: "actions", key: "actions" },
      actions.map((action, index) => button(action, card, busy, { kind: index === 0 && ["install", "upgrade", "repair", "fetch", "room", "resume", "rollback", "retry"].includes(action) ? "primary" : "secondary" })),
      card.state === "incompatible" && h("button", { type: "button", class: "button secondary", disabled: true, "aria-label": `Install: ${card.plugin} (${card.reason})` }, "Install"),
      h("button", { type: "button", key: "details", class: "button quiet details", "data-action": "details", "data-plugin": card.plugin, "aria-label": `Details: ${card.plugin}` }, "Details")));
}

export function jobOf(card, model) {
  return (model.jobs?.jobs ?? []).find((job) => job.id === card.job);
}

function versionLine(card) {
  const parts = [];
  if (card.active) {
    parts.push(card.active.version);
    if (card.outdated) parts.push(`${card.newest} is out`);
    if (card.active.held) parts.push("held");
    if (card.active.pinned) parts.push("pinned");
  } else if (card.newest ?? card.newest_any) {
    parts.push(card.newest ?? card.newest_any);
    if (card.size_bytes) parts.push(sizeText(card.size_bytes));
  }
  return h("p", { class: "version numbers" }, parts.join(" · ") || "no release");
}

function progressOf(card, job) {
  const progress = job?.progress;
  if (!progress) {
    return h("div", { class: "progress", key: "progress" },
      h("progress", { class: card.state, "aria-label": `${STATES[card.state][0]}: ${card.plugin}`, max: "100", value: card.state === "queued" ? null : "0" }),
      h("p", { class: "numbers" }, card.state === "queued" ? "Preparing…" : ""));
  }
  const told = [`${progress.percent}%`, `${sizeText(progress.transferred_bytes)} of ${sizeText(progress.total_bytes)}`];
  if (card.state === "downloading") {
    if (progress.bytes_per_second) told.push(`${sizeText(progress.bytes_per_second)}/s`);
    told.push(timeLeft(progress.seconds_left));
  }
  if (card.state === "installing") told.splice(0, told.length, "Checking and placing files…");
  return h("div", { class: "progress", key: "progress" },
    h("progress", { class: card.state, "aria-label": `${STATES[card.state][0]}: ${card.plugin}`, max: "100", value: String(progress.percent) }),
    h("p", { class: "numbers" }, told.filter(Boolean).join(" · ")));
}

function reasonOf(card, job, busy) {
  if (busy) return h("p", { class: "reason", key: "reason" }, h("span", { class: "spinner", "aria-hidden": "true" }), "Working…");
  if (!card.reason) return null;
  const error = job?.error;
  const tone = STATES[card.state]?.[1] ?? "plain";
  const said = card.state === "yanked" ? `The publisher withdrew this release: ${card.reason}` : card.state === "blocked" ? `The publisher blocked this release: ${card.reason}` : card.reason;
  return h("div", { class: `reason ${tone}`, key: "reason" },
    h("p", { dir: "auto" }, h("bdi", {}, said.startsWith(card.plugin) ? said : capital(said))),
    error?.remedy && h("p", { class: "remedy" }, h("bdi", {}, error.remedy)));
}

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

// --- the panels ----------------------------------------------------------------------------------

export function panels(model, view) {
  if (!model.store) return [];
  return [storagePanel(model.storage, model.store), integrityPanel(model, view), agentPanel(model.agent), activityPanel(model)];
}

function panel(name, heading, ...content) {
  return h("section", { class: `panel ${name}`, key: name, "aria-labelledby": `${name}-heading` }, h("h2", { id: `${name}-heading` }, heading), content);
}

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value, kind]) => h("div", { class: kind }, h("dt", {}, name), h("dd", { class: "numbers" }, value))));
}

const WIDE_ENOUGH = 0.05; // for a number, as a share of the bar

function storagePanel(storage, store) {
  if (!storage) return panel("storage", "Storage", h("p", { class: "muted" }, "It cannot be read."));
  const sizes = new Map();
  for (const one of storage.releases) sizes.set(one.plugin, (sizes.get(one.plugin) ?? 0) + one.unique_bytes);
  const byPlugin = [...sizes].sort((a, b) => b[1] - a[1]);
  const own = byPlugin.reduce((sum, [, bytes]) => sum + bytes, 0);
  const shared = Math.max(storage.release_bytes - own, 0);
  const shown = byPlugin.length === 7 ? 7 : 6; // nobody wants to read of one more
  const segments = byPlugin.slice(0, shown).map(([name, bytes], index) => ({ name, bytes, tone: `part-${index + 1}`, number: String(index + 1) }));
  const rest = byPlugin.slice(shown).reduce((sum, [, bytes]) => sum + bytes, 0);
  if (rest) segments.push({ name: `${byPlugin.length - shown} more plugins`, bytes: rest, tone: "rest" });
  if (shared) segments.push({ name: "Shared by several", bytes: shared, tone: "shared" });
  if (storage.unfinished_bytes) segments.push({ name: "Unfinished downloads", bytes: storage.unfinished_bytes, tone: "unfinished" });
  if (storage.record_bytes) segments.push({ name: "Records", bytes: storage.record_bytes, tone: "records" });
  const whole = storage.budget_bytes ?? Math.max(storage.used_bytes, 1);
  const next = storage.releases.filter((one) => one.eviction_order).sort((a, b) => a.eviction_order - b.eviction_order).slice(0, 3);
  return panel("storage", "Storage",
    h("p", { class: "figure numbers" }, h("strong", {}, sizeText(storage.used_bytes)), storage.budget_bytes === null ? " used, no budget" : ` of ${sizeText(storage.budget_bytes)}`),
    h("div", { class: "bar", role: "img", "aria-label": `${sizeText(storage.used_bytes)} used${storage.budget_bytes === null ? "" : ` of a budget of ${sizeText(storage.budget_bytes)}`}; the list below says by what` },
      segments.map((one) => h("span", { key: one.name, class: `part ${one.tone}`, sizes: { "--share": String(Math.max(one.bytes / whole, 0.002)) } }, one.bytes / whole >= WIDE_ENOUGH && one.number))),
    h("ul", { class: "legend" }, segments.map((one) => h("li", { key: one.name }, h("span", { class: `swatch part ${one.tone}`, "aria-hidden": "true" }, one.number), h("span", { class: "label" }, one.name), h("span", { class: "numbers" }, sizeText(one.bytes))))),
    facts([
      ["Store", store.directory, "narrow"], // where the top has no place for it
      ["Free on the disk", sizeText(storage.free_bytes)],
      ["Must stay free", sizeText(storage.floor_bytes)],
      ["Room for more", sizeText(storage.available_bytes)],
    ]),
    next.length > 0 && h("div", { class: "next" }, h("h3", {}, "Goes first when space is short"),
      h("ol", {}, next.map((one) => h("li", { key: `${one.plugin} ${one.version}` }, h("span", { class: "label" }, `${one.plugin} ${one.version}`), h("span", { class: "muted" }, one.kept), h("span", { class: "numbers" }, sizeText(one.unique_bytes)))))),
    h("div", { class: "actions" }, h("button", { type: "button", class: "button secondary", "data-action": "gc" }, "Clean up")));
}

function integrityPanel(model, view) {
  const { integrity, agent } = model;
  const verifying = integrity.verifying || view.busy.has("verify-all");
  const bad = integrity.damaged.length + integrity.records.length;
  const verdict = verifying
    ? h("p", { class: "verdict" }, h("span", { class: "spinner", "aria-hidden": "true" }), "Verifying every byte…")
    : integrity.checked === null && !bad
      ? h("p", { class: "verdict muted" }, "Not verified since this dashboard was started. Every plugin is verified when it is loaded.")
      : bad
        ? h("p", { class: "verdict bad" }, icon("warning"), `${bad} damaged`)
        : h("p", { class: "verdict good" }, icon("check"), "Everything is as it was signed");
  return panel("integrity", "Integrity", verdict,
    integrity.damaged.length + integrity.records.length > 0 && h("ul", { class: "findings" },
      integrity.records.map((one) => h("li", { key: one }, one)),
      integrity.damaged.map((one) => h("li", { key: one.head }, h("strong", {}, `${one.plugin} ${one.version}`), " ", one.faults[0] ? `${one.faults[0].damage}: ${one.faults[0].path}` : (one.error?.message ?? "")))),
    facts([
      integrity.checked && ["Verified here", time(integrity.checked)],
      ["Last scrub", agent.last_scrub ? time(agent.last_scrub) : "never"],
      ...agent.scrub_findings.slice(0, 3).map((one) => ["Found", one]),
    ]),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "button secondary", "data-action": "verify-all", "aria-disabled": verifying ? "true" : null }, "Verify now"),
      bad > 0 && h("button", { type: "button", class: "button primary", "data-action": "repair-all", "aria-disabled": verifying ? "true" : null }, "Repair all")));
}

function agentPanel(agent) {
  return panel("agent", "Agent",
    h("p", { class: "verdict" }, h("span", { class: `pulse ${agent.running ? "good" : "muted"}` }, h("span", { class: "dot", "aria-hidden": "true" }), agent.running ? "Running" : "Not running")),
    !agent.running && h("p", { class: "muted" }, "Downloads go on while this dashboard is open. 'pluginctl agent start' keeps them going without it."),
    facts([
      agent.running && agent.doing && ["Doing", agent.doing],
      agent.running && agent.since && ["Since", time(agent.since)],
      ["Last update", agent.last_update ? time(agent.last_update) : "never"],
    ]));
}

function activityPanel(model) {
  const shown = model.activity.slice(0, 12);
  return panel("activity", "Activity",
    shown.length
      ? h("ol", { class: "events", tabindex: "0", "aria-label": "What happened lately" }, shown.map((one, index) => h("li", { key: `${one.when} ${index}`, class: one.kind }, h("span", { class: "what" }, h("bdi", {}, one.plugin && one.text.startsWith(one.plugin) ? one.text : capital(one.text))), time(one.when))))
      : h("p", { class: "muted" }, "Nothing has happened yet."));
}

// --- the details of a plugin ---------------------------------------------------------------------

export function detail(card, model, view) {
  const job = jobOf(card, model);
  const busy = view.busy.has(card.plugin);
  const records = model.history.filter((one) => one.changes.some((change) => change.plugin === card.plugin));
  const link = safeLink(card.homepage);
  const main = ["install", "repair", "fetch", "upgrade", "resume", "retry"];
  return [
    h("header", { class: "sheet-head" },
      avatar(card.plugin),
      h("div", { class: "title" }, h("h2", { id: "detail-heading", tabindex: "-1" }, `${publisherOf(card.plugin)}/`, h("wbr"), nameOf(card.plugin)), versionLine(card)),
      chip(card),
      h("button", { type: "button", class: "button quiet square", "data-action": "close", "aria-label": "Close" }, icon("close"))),
    h("div", { class: "sheet-body", tabindex: "0", role: "region", "aria-labelledby": "detail-heading" },
      h("p", { class: "lead", dir: "auto" }, h("bdi", {}, card.summary || "No description.")),
      card.description && h("p", { class: "description", dir: "auto" }, h("bdi", {}, card.description)),
      progressWhere(card, job),
      reasonOf(card, job, busy),
      h("div", { class: "actions" },
        job?.error?.family === "no-space" && button("room", card, busy, { kind: "primary" }),
        card.actions.map((action) => button(action, card, busy, { kind: action === "uninstall" ? "danger" : main.includes(action) ? "primary" : "secondary" }))),
      h("section", { "aria-labelledby": "releases-heading" }, h("h3", { id: "releases-heading" }, "Releases"),
        h("ul", { class: "releases" }, card.releases.map((one, index) => release(one, card, busy, index)))),
      h("section", { "aria-labelledby": "history-heading" }, h("h3", { id: "history-heading" }, "History"),
        records.length
          ? h("ol", { class: "events" }, records.slice(0, 20).map((one) => h("li", { key: String(one.number) }, h("span", { class: "what" }, changeText(one, card.plugin)), time(one.created))))
          : h("p", { class: "muted" }, "It was never installed here.")),
      h("section", { "aria-labelledby": "about-heading" }, h("h3", { id: "about-heading" }, "About"),
        facts([
          ["Publisher", publisherOf(card.plugin)],
          card.license && ["Licence", h("bdi", {}, card.license)],
          card.homepage && ["Home page", link ? h("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, h("bdi", {}, card.homepage)) : h("bdi", {}, card.homepage)],
          card.active && ["Manifest", h("code", { title: card.active.head }, card.active.head.slice(0, 23))],
        ]))),
  ];
}

function progressWhere(card, job) {
  return ["downloading", "installing", "paused", "queued", "waiting"].includes(card.state) ? progressOf(card, job) : null;
}

/** An address that a person may follow: https, and nothing that looks like another. */
function safeLink(text) {
  try {
    const found = new URL(text);
    return found.protocol === "https:" && !found.username && !found.password ? found.href : null;
  } catch {
    return null;
  }
}

function release(one, card, busy, index) {
  const isActive = card.active?.version === one.version && card.active?.platform === one.platform;
  const why = one.blocked ? `Blocked: ${one.blocked}` : one.yanked ? `Withdrawn: ${one.yanked}` : one.reasons[0] ? capital(one.reasons[0]) : "";
  const possible = !isActive && !one.blocked && !one.reasons.length && !(card.job && card.actions.includes("cancel"));
  return h("li", { key: `${one.version} ${one.platform} ${index}` },
    h("div", {}, h("strong", { class: "numbers" }, one.version), " ",
      h("span", { class: "muted numbers" }, [one.platform === "any" ? "" : one.platform, sizeText(one.size_bytes)].filter(Boolean).join(" · ")),
      why && h("p", { class: `muted ${one.blocked ? "bad" : ""}`, dir: "auto" }, h("bdi", {}, why))),
    isActive
      ? h("span", { class: "chip good" }, "Active")
      : possible && h("button", { type: "button", class: "button secondary small", "data-action": "install-version", "data-plugin": card.plugin, "data-version": one.version, "aria-disabled": busy ? "true" : null, "aria-label": `Install ${card.plugin} ${one.version}` }, "Install"));
}

function changeText(record, plugin) {
  const { before, after } = record.changes.find((change) => change.plugin === plugin);
  if (!after) return `Uninstalled ${before?.version ?? ""}`;
  if (!before) return `Installed ${after.version}`;
  if (before.head !== after.head) return `${before.version} → ${after.version}${after.held && !before.held ? ", held" : ""}`;
  if (before.held !== after.held) return after.held ? `Held at ${after.version}` : "Upgrades allowed again";
  if (before.pinned !== after.pinned) return after.pinned ? "Pinned" : "Unpinned";
  return record.action;
}

// --- questions -----------------------------------------------------------------------------------

export function confirmation({ heading, text, action, data }) {
  return [
    h("h2", { id: "ask-heading" }, heading),
    h("p", {}, text),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "button secondary", "data-action": "close-ask" }, "Keep it"),
      h("button", { type: "button", class: "button danger", "data-action": action, ...data }, heading.split(" ")[0])),
  ];
}

const WAYS = {
  unpin: (way) => [`${way.plugin} is pinned`, "Unpin"],
  unfinished: () => ["Unfinished downloads", "Remove"],
  loaded: (way) => [`${way.plugin} is in use by a running program`, null],
};

export function roomQuestion(card, job, room, view) {
  const lacking = room?.space?.missing_bytes ?? 0;
  const fits = room?.space && lacking === 0;
  return [
    h("h2", { id: "ask-heading" }, fits ? "There is room now" : "Not enough space"),
    room === null
      ? h("p", {}, h("span", { class: "spinner", "aria-hidden": "true" }), "Working out what is missing…")
      : h("div", {},
        fits
          ? h("p", {}, `${card.plugin} needs ${sizeText(room.space.needed_bytes)}, which fits.`)
          : h("p", {}, room.space ? `${card.plugin} needs ${sizeText(room.space.needed_bytes)} and lacks ${sizeText(lacking)}, even once everything that may go is gone.` : (job.error?.message ?? "")),
        !fits && (room.ways.length
          ? h("ul", { class: "ways" }, room.ways.map((way) => {
            const [label, verb] = WAYS[way.kind](way);
            return h("li", { key: `${way.kind} ${way.plugin}` },
              h("div", {}, h("strong", {}, label), h("p", { class: "muted numbers" }, `${verb ? "frees" : "takes"} ${sizeText(way.bytes)}`)),
              verb
                ? h("button", { type: "button", class: "button secondary small", "data-action": "free", "data-kind": way.kind, "data-plugin": way.plugin ?? "", "aria-disabled": view.busy.has("free") ? "true" : null, "aria-label": `${verb}: ${label}` }, verb)
                : h("span", { class: "muted" }, "Close it first"));
          }))
          : h("p", { class: "muted" }, "Nothing that is kept could be let go.")),
        !fits && job.error?.remedy && h("p", { class: "remedy" }, job.error.remedy)),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "button secondary", "data-action": "close-ask" }, "Close"),
      h("button", { type: "button", class: "button primary", "data-action": "retry", "data-plugin": card.plugin, "aria-disabled": room === null ? "true" : null }, "Try again")),
  ];
}

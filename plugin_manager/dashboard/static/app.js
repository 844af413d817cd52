// Holds the model and what is open, draws it again whenever either changes, and carries out what is
// asked for.

import { h, render } from "./dom.js";
import { Failure, enter, follow, get, post } from "./live.js";
import * as draw from "./view.js";

const THEMES = ["system", "light", "dark"];
const TOAST_MILLISECONDS = 6000;
const TICK_MILLISECONDS = 30000; // "2 min ago" grows old by itself

const model = {};
const view = {
  connection: "opening",
  why: "", // it is locked, where that is known
  filter: "all",
  search: "",
  theme: stored("theme", "system"),
  busy: new Set(),
  open: null, // the plugin whose details are shown
  room: null, // the plugin for which space is sought, and what is known of that
  question: null,
  toasts: [],
};

const element = (id) => document.getElementById(id);

function stored(name, otherwise) {
  try {
    return localStorage.getItem(name) ?? otherwise;
  } catch {
    return otherwise; // storage may be forbidden
  }
}

// --- drawing -------------------------------------------------------------------------------------

let drawing = false;

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    paint();
  });
}

let focusedCard = null; // the plugin of the card that holds the focus, or held it until it was redrawn

function paint() {
  const focused = document.activeElement;
  const dialog = focused?.closest("#detail, #ask");
  if (focused !== document.body) focusedCard = focused?.closest("[data-plugin-card]")?.dataset.pluginCard ?? null;
  document.documentElement.dataset.theme = view.theme;
  render(element("top"), draw.top(model, view));
  render(element("alerts"), draw.alerts(model, view));
  render(element("plugins"), draw.plugins(model, view));
  render(element("panels"), draw.panels(model, view));
  paintDialogs();
  paintToasts();
  // A button that was pressed may be gone for what it did: whoever uses the keyboard stays near.
  if (document.activeElement !== document.body) return;
  if (dialog?.open) dialog.querySelector("h2[tabindex], button")?.focus();
  else if (focusedCard) document.querySelector(`[data-plugin-card="${focusedCard}"] .details`)?.focus();
}

/** Above an open dialog too, which everything else lies behind. */
function paintToasts() {
  const box = element("toasts");
  render(box, view.toasts.map((one) => h("p", { key: one.key, class: `toast ${one.tone}` }, h("bdi", {}, one.text))));
  const last = view.toasts.at(-1)?.key;
  if (last === box.last) return;
  box.last = last;
  if (box.matches(":popover-open")) box.hidePopover();
  if (last) box.showPopover();
}

function paintDialogs() {
  const card = cardOf(view.open);
  const detail = element("detail");
  if (card) render(detail, draw.detail(card, model, view));
  show(detail, Boolean(card));

  const ask = element("ask");
  const wanting = view.room && cardOf(view.room.plugin);
  const job = wanting && draw.jobOf(wanting, model);
  if (view.question) render(ask, draw.confirmation(view.question));
  else if (wanting && job) render(ask, draw.roomQuestion(wanting, job, view.room.found, view));
  show(ask, Boolean(view.question || (wanting && job)));
}

function show(dialog, wanted) {
  if (wanted && !dialog.open) dialog.showModal();
  if (!wanted && dialog.open) dialog.close();
}

function cardOf(plugin) {
  return plugin ? (model.plugins ?? []).find((card) => card.plugin === plugin) : undefined;
}

function toast(text, tone = "plain") {
  const key = crypto.randomUUID();
  view.toasts = [...view.toasts.slice(-3), { key, text, tone }];
  redraw();
  setTimeout(() => {
    view.toasts = view.toasts.filter((one) => one.key !== key);
    redraw();
  }, TOAST_MILLISECONDS);
}

// --- news ----------------------------------------------------------------------------------------

const seen = new Map(); // each job's last state, also while its store is gone

function changed(sections) {
  const first = model.jobs === undefined;
  Object.assign(model, sections);
  for (const job of sections.jobs?.jobs ?? []) {
    const now = `${job.state} ${job.submitted}`;
    const isNews = seen.get(job.id) !== now;
    seen.set(job.id, now);
    if (isNews && !first) {
      const what = job.requests.join(", ") || "all plugins";
      if (job.state === "completed") toast(`${what}: done`, "good");
      if (job.state === "failed") toast(`${what}: ${job.why}`, "bad");
    }
  }
  redraw();
}

// --- doing ---------------------------------------------------------------------------------------

/** Do something that takes a while, with `name` busy meanwhile; says what went wrong. */
async function during(name, work, done = "") {
  if (view.busy.has(name)) return;
  view.busy.add(name);
  redraw();
  try {
    await work();
    if (done) toast(done, "good");
  } catch (error) {
    if (!(error instanceof Failure)) toast("The dashboard cannot be reached.", "bad");
    else if (error.status === 401) view.connection = "locked";
    else toast([error.error.message, error.error.remedy].filter(Boolean).join(". "), "bad");
  } finally {
    view.busy.delete(name);
    redraw();
  }
}

const steer = (verb) => (card) => post(`/api/jobs/${encodeURIComponent(card.job)}/${verb}`);

// What is done to one plugin, and what is said when it is.
const ON_PLUGIN = {
  install: [(card) => post("/api/install", { requests: [card.plugin] })],
  upgrade: [(card) => post("/api/upgrade", { names: [card.plugin] })],
  fetch: [(card) => post("/api/install", { requests: [`${card.plugin}==${card.active.version}`] })],
  pause: [steer("pause")],
  resume: [steer("resume")],
  cancel: [steer("cancel")],
  retry: [steer("resume")],
  dismiss: [steer("forget")],
  rollback: [(card) => post("/api/rollback", { name: card.plugin, to: card.previous }), (card) => `${card.plugin} is back at ${card.previous}`],
  confirm: [(card) => post("/api/confirm", { name: card.plugin }), (card) => `${card.plugin} ${card.active.version} stays`],
  pin: [(card) => post("/api/pin", { name: card.plugin }), (card) => `${card.plugin} is pinned`],
  unpin: [(card) => post("/api/unpin", { name: card.plugin }), (card) => `${card.plugin} is not pinned any more`],
  hold: [(card) => post("/api/hold", { name: card.plugin }), (card) => `${card.plugin} is held`],
  unhold: [(card) => post("/api/unhold", { name: card.plugin }), (card) => `${card.plugin} may be upgraded again`],
  repair: [(card) => post("/api/repair", { names: [card.plugin] }), (card) => `${card.plugin} is repaired`],
};

const ACTIONS = {
  filter: ({ filter }) => {
    view.filter = filter;
  },
  theme: () => {
    view.theme = THEMES[(THEMES.indexOf(view.theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("theme", view.theme);
    } catch {
      // It then holds for this visit.
    }
  },
  details: ({ plugin }) => {
    view.open = plugin;
  },
  close: () => {
    view.open = null;
  },
  "close-ask": closeAsk,
  update: () => during("update", () => post("/api/update"), "The list is up to date"),
  "upgrade-all": () => during("upgrade-all", () => post("/api/upgrade")),
  "pause-all": () => during("all", () => post("/api/jobs/pause")),
  "resume-all": () => during("all", () => post("/api/jobs/resume")),
  "verify-all": () =>
    during("verify-all", async () => {
      const found = await post("/api/verify");
      toast(found.good ? "Everything is as it was signed" : "Not everything is good: see Integrity", found.good ? "good" : "bad");
    }),
  "repair-all": () => during("verify-all", () => post("/api/repair"), "Repaired"),
  gc: () =>
    during("gc", async () => {
      const { freed_bytes: freed } = await post("/api/gc");
      toast(freed ? `Freed ${draw.sizeText(freed)}` : "There was nothing to clean up", "good");
    }),
  verify: ({ plugin }) =>
    during(plugin, async () => {
      const found = await post("/api/verify", { names: [plugin] });
      toast(found.good ? `${plugin} is as it was signed` : `${plugin} is not good`, found.good ? "good" : "bad");
    }),
  "install-version": ({ plugin, version }) => during(plugin, () => post("/api/install", { requests: [`${plugin}==${version}`] })),
  uninstall: ({ plugin }) => {
    view.question = {
      heading: `Uninstall ${plugin}?`,
      text: "Programs that use it will not find it any more. It can be installed again, and the next change keeps its files until then.",
      action: "uninstall-now",
      data: { "data-plugin": plugin },
    };
  },
  "uninstall-now": ({ plugin }) => {
    closeAsk();
    return during(plugin, () => post("/api/uninstall", { names: [plugin] }), `${plugin} is uninstalled`);
  },
  room: ({ plugin }) => {
    view.room = { plugin, found: null };
    return seekRoom();
  },
  free: ({ kind, plugin }) =>
    during("free", async () => {
      if (kind === "unpin") await post("/api/unpin", { name: plugin });
      else await post("/api/gc", { unfinished: true });
      await seekRoom();
    }),
};

function closeAsk() {
  view.question = null;
  view.room = null;
}

async function seekRoom() {
  const wanting = view.room;
  const card = wanting && cardOf(wanting.plugin);
  if (!card?.job) return;
  await during("room", async () => {
    wanting.found = await get(`/api/jobs/${encodeURIComponent(card.job)}/room`);
  });
  if (wanting.found === null && view.room === wanting) closeAsk(); // the toast says why
}

function act(data) {
  const { action, plugin } = data;
  if (action in ACTIONS) {
    ACTIONS[action](data);
  } else if (action in ON_PLUGIN) {
    const card = cardOf(plugin);
    if (!card) return;
    if (action === "retry") closeAsk();
    const [work, done] = ON_PLUGIN[action];
    during(plugin, () => work(card), done?.(card));
  }
  redraw();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button && button.getAttribute("aria-disabled") !== "true") act(button.dataset);
  // A click beside a dialog closes it.
  if (event.target === element("detail")) act({ action: "close" });
  if (event.target === element("ask")) act({ action: "close-ask" });
});

document.addEventListener("pointerdown", () => {
  focusedCard = null; // who points needs no focus
});

document.addEventListener("input", (event) => {
  if (event.target.id !== "search") return;
  view.search = event.target.value;
  redraw();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, textarea")) return;
  event.preventDefault();
  element("search")?.focus();
});

for (const [id, name] of [["detail", "close"], ["ask", "close-ask"]]) {
  // Escape closes the dialog itself: keep what we believe in step.
  element(id).addEventListener("close", () => act({ action: name }));
}

async function start() {
  paint();
  try {
    await enter();
  } catch (error) {
    view.connection = "locked";
    view.why = error.message;
    redraw();
    return;
  }
  setInterval(redraw, TICK_MILLISECONDS);
  await follow(changed, (connection) => {
    view.connection = connection;
    redraw();
  });
}

start();

// The session and the way to the server: requests, and the stream of what changes.

const KEY = "plugin-manager-key";
const RECONNECT_MILLISECONDS = [500, 1000, 2000, 5000];
const SILENCE_MILLISECONDS = 30000; // the server says something every ten seconds

export class Failure extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.error = error;
  }
}

/** Exchange the secret of the link, if there is one, and take it out of the address. */
export async function enter() {
  const secret = new URLSearchParams(location.hash.slice(1)).get("code");
  if (secret === null) return;
  history.replaceState(null, "", location.pathname);
  const answer = await post("/api/session", { secret });
  remember(answer.key);
}

// No other port of this host can read what is stored for ours; other tabs of this browser can.
let key = "";

function remember(found) {
  key = found;
  try {
    localStorage.setItem(KEY, found);
  } catch {
    // It then holds for this tab.
  }
}

function headers() {
  try {
    key = localStorage.getItem(KEY) ?? key;
  } catch {
    // As above.
  }
  return { "X-Session-Key": key };
}

async function answered(response) {
  const value = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Failure(response.status, value.error ?? { message: `the dashboard answered ${response.status}`, remedy: "" });
  }
  return value;
}

export async function get(path) {
  return answered(await fetch(path, { headers: headers() }));
}

export async function post(path, body = {}) {
  return answered(
    await fetch(path, {
      method: "POST",
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
}

/**
 * Call `changed` with the sections that are new, and `connected` with whether we are. For ever.
 *
 * A page that nobody looks at lets go of its stream: browsers open six connections to a server, for
 * all tabs together, and more pages would wait for ever.
 */
export async function follow(changed, connected) {
  let stream = new AbortController();
  document.addEventListener("visibilitychange", () => document.hidden && stream.abort());
  for (let failures = 0; ; failures += 1) {
    await looked();
    stream = new AbortController();
    try {
      const response = await fetch("/api/events", { headers: headers(), signal: stream.signal });
      if (response.status === 401 || response.status === 403) return connected("locked");
      if (!response.ok) throw new Error(String(response.status));
      connected("live");
      failures = 0;
      await read(response.body, changed, stream);
    } catch {
      // The server went away, or has too many pages open: try again below.
    }
    if (document.hidden) continue;
    connected("lost");
    const last = RECONNECT_MILLISECONDS.length - 1;
    await new Promise((done) => setTimeout(done, RECONNECT_MILLISECONDS[Math.min(failures, last)]));
  }
}

/** Wait until somebody looks at the page. */
function looked() {
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

async function read(body, changed, stream) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => stream.abort(), SILENCE_MILLISECONDS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) changed(JSON.parse(event.slice(6)));
    }
  }
}

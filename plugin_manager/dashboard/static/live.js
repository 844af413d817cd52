// The session and the way to the server: requests, and the stream of what changes.

const KEY = "plugin-manager-key";
const RECONNECT_MILLISECONDS = [500, 1000, 2000, 5000];

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

/** Call `changed` with the sections that are new, and `connected` with whether we are. For ever. */
export async function follow(changed, connected) {
  for (let failures = 0; ; failures += 1) {
    try {
      const response = await fetch("/api/events", { headers: headers() });
      if (response.status === 401 || response.status === 403) return connected("locked");
      if (!response.ok) throw new Error(String(response.status));
      connected("live");
      failures = 0;
      await read(response.body, changed);
    } catch {
      // The server went away, or has too many pages open: try again below.
    }
    connected("lost");
    const last = RECONNECT_MILLISECONDS.length - 1;
    await new Promise((done) => setTimeout(done, RECONNECT_MILLISECONDS[Math.min(failures, last)]));
  }
}

async function read(body, changed) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) changed(JSON.parse(event.slice(6)));
    }
  }
}

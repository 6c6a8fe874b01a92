// A chat in a page: the client of docs/PROTOCOL.md ("A good client"), without any library.
//
// It survives what happens to a page: a reload, a connection that is cut, a gateway that is
// restarted in the middle of a reply. What was said is sent again until it is acknowledged,
// under the same id, so that it is taken once.

const gateway = new URLSearchParams(location.search).get("gateway") ?? "http://localhost:3500";
const STOP_TRYING = ["session_expired", "session_revoked"];
const SILENT_HEARTBEATS = 2;

const kept = `duologue ${gateway}`;
const page = Object.fromEntries(
  ["state", "log", "say", "text", "stop"].map((id) => [id, document.getElementById(id)]),
);

// Kept when the page is closed: the token, and the messages that are not acknowledged.
const session = JSON.parse(localStorage.getItem(kept)) ?? { token: null, unaccepted: [] };
const keep = () => localStorage.setItem(kept, JSON.stringify(session));

let socket;
let position = null; // "I have everything up to here"
let reply = null; // the one under way: { id, parts, end }
let backOff = 500;
let comeBackAfter = null;
let lastHeard = 0;
let heartbeat = 25_000;

start();

async function start() {
  if (!session.token) {
    const name = prompt("Your name?", "Ada") || "Ada";
    const created = await rest("POST", `/token?name=${encodeURIComponent(name)}`);
    Object.assign(session, { token: created.token, unaccepted: [] });
    keep();
  }
  connect();
}

async function rest(method, path) {
  const headers = session.token ? { authorization: `Bearer ${session.token}` } : {};
  const answer = await fetch(gateway + path, { method, headers });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.json();
}

// Reads the whole log, page by page. The stream continues from there.
async function readLog() {
  page.log.replaceChildren();
  let after = 0;
  for (;;) {
    const read = await rest("GET", `/refresh_token?after=${after}`);
    for (const { id, seq, msg, parts, role, status, failure, client_message_id } of read.messages) {
      const text = shown(msg, parts?.map(camelCase));
      show({ id, seq, text, user: role === "user", note: note(status, failure) });
      accepted(client_message_id);
      after = seq;
    }
    position = { epoch: read.position.epoch, seq: after };
    if (!read.has_more) return;
  }
}

async function connect() {
  page.state.textContent = "connecting …";
  try {
    if (!position) await readLog();
  } catch (error) {
    return error.message.startsWith("Session") ? over("session_expired") : lost();
  }
  for (const { id, text } of session.unaccepted) show({ id, text, user: true, pending: true });
  socket = new WebSocket(gateway.replace(/^http/, "ws") + "/chat", [
    "duologue.v1.json",
    `bearer.${session.token}`,
  ]);
  const own = socket;
  const mine = (act) => (event) => own === socket && act(event);
  socket.onopen = mine(() => {
    lastHeard = Date.now();
    // Inside a reply it continues where this page has it.
    const inside = reply && { reply: { replyId: reply.id, offset: reply.end } };
    write({ open: { position: { ...position, ...inside } } });
    session.unaccepted.forEach(send);
  });
  socket.onmessage = mine(({ data }) => hear(JSON.parse(data)));
  socket.onclose = mine(({ reason }) => lost({ code: reason }));
}

const write = (frame) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(frame));
const send = ({ id, text }) => write({ send: { text, clientMessageId: id } });

function hear(event) {
  lastHeard = Date.now();
  if (event.opened) opened(event.opened);
  else if (event.accepted) accepted(event.accepted.clientMessageId);
  else if (event.message) said(event.message);
  else if (event.replyStarted) began(event.replyStarted);
  else if (event.delta) grew(event.delta, appendPiece);
  else if (event.replyPart) grew(event.replyPart, replacePart);
  else if (event.error) failed(event.error);
  else if (event.goAway) comeBackAfter = event.goAway.reconnectAfterMs;
}

async function opened({ recovered, heartbeatIntervalMs }) {
  [backOff, comeBackAfter, heartbeat] = [500, null, heartbeatIntervalMs];
  page.state.textContent = "connected";
  if (recovered) return;
  // The log is another one than that which this page knows: nothing of it is worth keeping.
  reply = null;
  await readLog();
}

function said({ id, seq, role, text, parts, status, failure, clientMessageId }) {
  if (seq <= position.seq) return;
  position.seq = seq;
  const user = role === "ROLE_USER";
  accepted(clientMessageId);
  const remark = note(status?.replace("MESSAGE_STATUS_", "").toLowerCase(), failure);
  show({ id, seq, text: shown(text, parts), user, note: remark });
  if (!user) {
    reply = null;
    page.stop.disabled = true;
  }
}

function began({ replyId, offset = 0 }) {
  // Another attempt, after one that died with the gateway, has another id.
  document.querySelectorAll("li.assistant.pending").forEach((item) => item.id === replyId || item.remove());
  if (offset === 0 || reply?.id !== replyId) reply = { id: replyId, parts: [], end: 0 };
  page.stop.disabled = false;
  if (reply.end !== offset) return lost();
  show({ id: replyId, text: shown("", reply.parts), pending: true });
}

// A frame covers the reply from `offset` to `end`. One number says whether it is the next one.
function grew(frame, apply) {
  if (reply?.id !== frame.replyId || frame.end <= reply.end) return;
  if (frame.offset !== reply.end) return lost();
  apply(reply.parts, frame);
  reply.end = frame.end;
  show({ id: reply.id, text: shown("", reply.parts), pending: true });
}

function appendPiece(parts, { index, text, reasoning, toolCall }) {
  const part = (parts[index] ??= toolCall ? { toolCall: { ...toolCall, arguments: "" } } : {});
  if (text) part.text = (part.text ?? "") + text;
  if (reasoning) part.reasoning = (part.reasoning ?? "") + reasoning;
  if (toolCall) part.toolCall.arguments += toolCall.arguments;
}

function replacePart(parts, { index, content }) {
  parts[index] = content;
}

// The parts as lines of text. This page shows no part that it does not know.
function shown(text, parts) {
  if (!parts?.length) return text;
  const line = ({ text, reasoning, toolCall, toolResult, file, source }) => {
    if (reasoning) return `(${reasoning})`;
    if (toolCall) return `[calls ${toolCall.name} ${toolCall.arguments}]`;
    if (toolResult) return `[result ${toolResult.output}]`;
    if (file) return `[file ${file.name ?? file.mediaType}]`;
    if (source) return `[source ${source.title ?? source.url ?? source.id}]`;
    return text;
  };
  return parts.map(line).filter(Boolean).join("\n");
}

// REST names the fields in snake case.
const camelCase = (value) => {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(camelCase);
  const name = (key) => key.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [name(key), camelCase(inner)]));
};

function failed({ code, message, retryAfterMs, clientMessageId, final }) {
  if (final) return lost({ code, retryAfterMs });
  const refused = session.unaccepted.find(({ id }) => id === clientMessageId);
  if (refused && retryAfterMs) return setTimeout(() => send(refused), retryAfterMs);
  page.state.textContent = message;
  accepted(clientMessageId);
}

function lost({ code, retryAfterMs } = {}) {
  socket?.close();
  socket = null;
  page.stop.disabled = true;
  if (STOP_TRYING.includes(code)) return over(code);
  const wait = comeBackAfter ?? retryAfterMs ?? Math.random() * backOff;
  backOff = Math.min(2 * backOff, 30_000);
  page.state.textContent = "connection lost, trying again …";
  setTimeout(connect, wait);
}

function over(code) {
  localStorage.removeItem(kept);
  page.state.textContent = `${code}: reload for a new conversation`;
  page.say.remove();
}

// A connection that was lost without a close is silent.
setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN && Date.now() - lastHeard > SILENT_HEARTBEATS * heartbeat) lost();
}, 1000);

page.say.onsubmit = (event) => {
  event.preventDefault();
  const message = { id: crypto.randomUUID(), text: page.text.value };
  session.unaccepted.push(message);
  keep();
  show({ ...message, user: true, pending: true });
  send(message);
  page.say.reset();
};
page.stop.onclick = () => write({ stop: {} });

// It is in the log now, under the number that the log gave it.
function accepted(clientMessageId) {
  if (!clientMessageId) return;
  session.unaccepted = session.unaccepted.filter(({ id }) => id !== clientMessageId);
  keep();
  document.getElementById(clientMessageId)?.remove();
}

const note = (status, failure) =>
  failure?.message ?? (["stopped", "interrupted"].includes(status) ? status : "");

// Puts a message where it stands in the log, or in the place of what was shown of it.
function show({ id, seq, text, user = false, pending = false, note = "" }) {
  const item = document.getElementById(id) ?? document.createElement("li");
  item.id = id;
  item.className = [user ? "user" : "assistant", pending ? "pending" : ""].join(" ").trim();
  item.replaceChildren(text, ...(note ? [Object.assign(document.createElement("small"), { textContent: note })] : []));
  if (seq) item.dataset.seq = seq;
  const next = [...page.log.children].find((other) => other !== item && Number(other.dataset.seq ?? Infinity) > (seq ?? Infinity));
  if (seq && next) next.before(item);
  else if (!item.isConnected || seq) page.log.append(item);
  item.scrollIntoView({ block: "end" });
}

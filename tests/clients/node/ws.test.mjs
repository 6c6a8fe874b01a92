// ws, the WebSocket client of Node and of Postman.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";

import WebSocket from "ws";

import { Gateway, Inbox, REPLY, SLOWLY, SLOW_REPLY, soon } from "./support.mjs";

let gateway, slow;

before(async () => {
  [gateway, slow] = [await Gateway.start(), await Gateway.start(...SLOWLY)];
});

after(async () => {
  await gateway.stop();
  await slow.stop();
});

async function open(url, protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, options);
  const frames = new Inbox();
  socket.on("message", (data, isBinary) => frames.put(isBinary ? data : data.toString()));
  const closed = once(socket, "close").then(([code]) => code);
  await soon(once(socket, "open"), "the handshake");
  return { socket, frames, closed: () => soon(closed, "the close") };
}

// The status of a handshake that was refused.
async function refusal(url, protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, options);
  const [request, response] = await soon(once(socket, "unexpected-response"), "a refusal");
  request.destroy();
  return response.statusCode;
}

const parsed = async (frames) => JSON.parse(await frames.next());

test("a plain chat: a message, and the whole reply to it", async () => {
  const { socket, frames, closed } = await open(`${slow.ws}?token=${await slow.newToken()}`);
  assert.equal(socket.protocol, "");
  socket.send("Hello Bot");
  assert.equal(await frames.next(), SLOW_REPLY);
  assert.equal(frames.size, 0);
  socket.close(1000);
  assert.equal(await closed(), 1000);
});

test("a token in a header opens a chat", async () => {
  const headers = { Authorization: `Bearer ${await gateway.newToken()}` };
  const { socket, frames } = await open(gateway.ws, [], { headers });
  socket.send("Hello Bot");
  assert.equal(await frames.next(), REPLY);
  socket.terminate();
});

test("a message in fragments is one message", async () => {
  const { socket, frames } = await open(`${gateway.ws}?token=${await gateway.newToken()}`);
  socket.send("Hello ", { fin: false });
  socket.send("Bot", { fin: true });
  assert.equal(await frames.next(), REPLY);
  socket.terminate();
});

test("twenty turns on one connection are a matter of milliseconds", async () => {
  const { socket, frames } = await open(`${gateway.ws}?token=${await gateway.newToken()}`);
  const began = performance.now();
  for (let turn = 0; turn < 20; turn++) {
    socket.send("Hel", { fin: false });
    socket.send("lo Bot", { fin: true });
    assert.equal(await frames.next(), REPLY);
  }
  // With Nagle's algorithm, delayed acknowledgements cost 40 ms per turn.
  assert(performance.now() - began < 400, `took ${performance.now() - began} ms`);
  socket.terminate();
});

test("a structured chat in JSON, its token in a subprotocol", async () => {
  const token = await gateway.newToken();
  const protocols = ["duologue.v1.json", `bearer.${token}`];
  const { socket, frames } = await open(gateway.ws, protocols);
  assert.equal(socket.protocol, "duologue.v1.json");
  socket.send(JSON.stringify({ send: { text: "Hello Bot", clientMessageId: "m1" } }));
  const seen = await frames.until((frame) => frame.includes("ROLE_ASSISTANT"));
  const kinds = seen.map((frame) => Object.keys(JSON.parse(frame))[0]);
  assert.equal(kinds[0], "opened");
  assert.deepEqual(
    kinds.filter((kind) => kind !== "accepted"),
    ["opened", "message", "replyStarted", "delta", "message"],
  );
  assert(kinds.includes("accepted"));
  socket.terminate();
});

test("a connection that dies in the middle of a reply is resumed by the next", async () => {
  const token = await slow.newToken();
  const first = await open(slow.ws, ["duologue.v1.json"]);
  first.socket.send(JSON.stringify({ open: { token } }));
  const { position } = (await parsed(first.frames)).opened;
  first.socket.send(JSON.stringify({ send: { text: "Hello Bot" } }));
  await first.frames.until((frame) => frame.includes('"delta"'));
  first.socket.terminate();

  const second = await open(slow.ws, ["duologue.v1.json"]);
  second.socket.send(JSON.stringify({ open: { token, position } }));
  const frames = await second.frames.until((frame) => frame.includes("ROLE_ASSISTANT"));
  const [opened, asked, started, ...rest] = frames.map((frame) => JSON.parse(frame));
  assert(opened.opened.recovered);
  assert.equal(asked.message.text, "Hello Bot");
  const answered = rest.pop();
  assert.equal(started.replyStarted.offset, 0, "no offset was given: the reply comes from its start");
  const deltas = rest.map(({ delta }) => delta.text);
  assert(deltas.length > 0, "resumed after the reply, not in the middle of it");
  assert.equal(deltas.join(""), SLOW_REPLY);
  assert.equal(answered.message.text, SLOW_REPLY);
  second.socket.terminate();
});

test("pings are answered", async () => {
  const { socket } = await open(`${gateway.ws}?token=${await gateway.newToken()}`);
  socket.ping("are you there?");
  const [payload] = await soon(once(socket, "pong"), "a pong");
  assert.equal(payload.toString(), "are you there?");
  socket.terminate();
});

test("a binary frame in a plain chat closes with 1003", async () => {
  const { socket, closed } = await open(`${gateway.ws}?token=${await gateway.newToken()}`);
  socket.send(Buffer.from("Hello Bot"));
  assert.equal(await closed(), 1003);
});

test("a frame too big closes with 1009", async () => {
  const { socket, closed } = await open(`${gateway.ws}?token=${await gateway.newToken()}`);
  socket.on("error", () => {}); // it may see the connection go before the Close frame
  socket.send("x".repeat(1024 * 1024));
  assert.equal(await closed(), 1009);
});

test("a revoked session closes with 4002", async () => {
  const token = await gateway.newToken();
  const { frames, closed } = await open(`${gateway.ws}?token=${token}`, ["duologue.v1.json"]);
  assert("opened" in (await parsed(frames)));
  await gateway.revoke(token);
  assert.equal(await closed(), 4002);
});

test("without a valid token the handshake is forbidden", async () => {
  assert.equal(await refusal(gateway.ws), 403);
  assert.equal(await refusal(`${gateway.ws}?token=nonsense`), 403);
  const headers = { Authorization: "Bearer 00000000-0000-4000-8000-000000000000" };
  assert.equal(await refusal(gateway.ws, [], { headers }), 403);
});

test("a page from elsewhere is forbidden", async () => {
  const url = `${gateway.ws}?token=${await gateway.newToken()}`;
  assert.equal(await refusal(url, [], { origin: "https://evil.example" }), 403);
  assert.equal(await refusal(url, ["duologue.v1.json"], { origin: "https://evil.example" }), 403);
});

// Chromium: a page on another port talks to the gateway by every means that a
// page has.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";

import { Gateway, REPLY, SLOWLY, SLOW_REPLY } from "../node/support.mjs";
import { Site, launch, open } from "./support.mjs";

let browser, site, gateway, slow, page;

before(async () => {
  [browser, site] = [await launch(), await Site.start()];
  [gateway, slow] = [await Gateway.start(), await Gateway.start(...SLOWLY)];
});

after(async () => {
  await browser.close();
  site.stop();
  await gateway.stop();
  await slow.stop();
});

beforeEach(async () => {
  page = await open(browser, site.origin());
});

afterEach(async () => {
  await page.context().close();
  assert.deepEqual(page.failures, []);
});

test("fetch makes a session and reads it, across origins", async () => {
  const seen = await page.evaluate(async (http) => {
    const made = await (await fetch(`${http}/token?name=Ada`, { method: "POST" })).json();
    const headers = { authorization: `Bearer ${made.token}` };
    const sent = await fetch(`${http}/messages`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ text: "Hello Bot", client_message_id: "m1" }),
    });
    const read = await (await fetch(`${http}/refresh_token`, { headers })).json();
    const refused = await fetch(`${http}/refresh_token?token=nonsense`);
    const gone = await fetch(`${http}/token`, { method: "DELETE", headers });
    return {
      sent: [sent.status, await sent.json()],
      name: read.name,
      first: read.messages[0].msg,
      refused: [refused.status, await refused.json()],
      gone: gone.status,
    };
  }, gateway.http);
  assert.equal(seen.sent[0], 202);
  assert.equal(seen.sent[1].seq, 1);
  assert.deepEqual([seen.name, seen.first, seen.gone], ["Ada", "Hello Bot", 204]);
  assert.deepEqual(seen.refused, [400, { detail: "Session expired or does not exist" }]);
});

test("WebSocket, structured: the token travels in a subprotocol", async () => {
  const token = await slow.newToken();
  const seen = await page.evaluate(
    ([url, token]) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(url, ["duologue.v1.json", `bearer.${token}`]);
        const events = [];
        socket.onopen = () => socket.send(JSON.stringify({ send: { text: "Hello Bot" } }));
        socket.onerror = () => reject(new Error("the WebSocket failed"));
        socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
        socket.onmessage = ({ data }) => {
          const event = JSON.parse(data);
          events.push(event);
          if (event.message?.role === "ROLE_ASSISTANT") {
            resolve({ protocol: socket.protocol, events });
            socket.onclose = null;
            socket.close();
          }
        };
      }),
    [slow.ws, token],
  );
  assert.equal(seen.protocol, "duologue.v1.json");
  const deltas = seen.events.filter(({ delta }) => delta).map(({ delta }) => delta.text);
  assert.equal(deltas.length, SLOW_REPLY.split(" ").length, "the reply was not streamed");
  assert.equal(deltas.join(""), SLOW_REPLY);
  assert.equal(seen.events.at(-1).message.text, SLOW_REPLY);
});

test("WebSocket, plain: a message, and the reply to it", async () => {
  const reply = await page.evaluate(
    (url) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(url);
        socket.onopen = () => socket.send("Hello Bot");
        socket.onmessage = ({ data }) => resolve(data);
        socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
      }),
    `${gateway.ws}?token=${await gateway.newToken()}`,
  );
  assert.equal(reply, REPLY);
});

test("WebSocket: an unknown token gets an error frame, since a page sees no status", async () => {
  const seen = await page.evaluate(
    (url) =>
      new Promise((resolve) => {
        const frames = [];
        const socket = new WebSocket(url, ["duologue.v1.json", "bearer.nonsense"]);
        socket.onmessage = ({ data }) => frames.push(JSON.parse(data));
        socket.onclose = ({ code, wasClean }) => resolve({ frames, code, wasClean });
      }),
    gateway.ws,
  );
  assert.equal(seen.frames.length, 1);
  assert.equal(seen.frames[0].error.final, true);
  assert.deepEqual([seen.code, seen.wasClean], [4001, true]);
});

test("EventSource: the conversation is streamed, with an id to resume from", async () => {
  const token = await slow.newToken();
  const seen = await page.evaluate(
    ([http, token]) =>
      new Promise((resolve, reject) => {
        const ids = [];
        const events = [];
        const source = new EventSource(`${http}/events?token=${token}`);
        source.onopen = () =>
          fetch(`${http}/messages?token=${token}&text=Hello%20Bot`, { method: "POST" });
        source.onerror = () => reject(new Error("the event stream failed"));
        source.onmessage = ({ data, lastEventId }) => {
          ids.push(lastEventId);
          events.push(JSON.parse(data));
          if (events.at(-1).message?.role === "ROLE_ASSISTANT") {
            source.close();
            resolve({ ids, events });
          }
        };
      }),
    [slow.http, token],
  );
  const { epoch } = seen.events[0].opened.position;
  assert.equal(seen.ids.at(0), `${epoch}:0`);
  assert.equal(seen.ids.at(-1), `${epoch}:2`);
  const deltas = seen.events.filter(({ delta }) => delta).map(({ delta }) => delta.text);
  assert.equal(deltas.join(""), SLOW_REPLY);
});

test("gRPC-Web: a conversation with unary calls and Subscribe", async () => {
  const seen = await page.evaluate(async (http) => {
    const { MessageStatus, Role, chatService } = globalThis.duologue;
    const client = chatService(http);
    const { token } = await client.createToken({ name: "Ada" });
    const deltas = [];
    for await (const { event } of client.subscribe({ token })) {
      if (event.case === "opened") await client.sendMessage({ token, send: { text: "Hello Bot" } });
      if (event.case === "delta") deltas.push(event.value.piece.value);
      if (event.case === "message" && event.value.role === Role.ASSISTANT) {
        return { deltas, text: event.value.text, status: MessageStatus[event.value.status] };
      }
    }
    throw new Error("the stream ended");
  }, slow.http);
  assert.equal(seen.deltas.length, SLOW_REPLY.split(" ").length, "the reply was not streamed");
  assert.equal(seen.deltas.join(""), seen.text);
  assert.deepEqual([seen.text, seen.status], [SLOW_REPLY, "COMPLETE"]);
});

test("gRPC-Web: a page can read why it was refused", async () => {
  const seen = await page.evaluate(async (http) => {
    const { Code, chatService } = globalThis.duologue;
    const client = chatService(http);
    const refused = async (call) => Code[(await call.catch((error) => error)).code];
    return [
      await refused(client.createToken({ name: "" })),
      await refused(client.refreshToken({ token: "nonsense" })),
    ];
  }, gateway.http);
  assert.deepEqual(seen, ["InvalidArgument", "Unauthenticated"]);
});

test("a page changes protocols in the middle of a reply and misses nothing", async () => {
  const token = await slow.newToken();
  const seen = await page.evaluate(
    async ([http, ws, token]) => {
      const client = globalThis.duologue.chatService(http);
      let position;
      let heard = "";
      for await (const { event } of client.subscribe({ token })) {
        if (event.case === "opened") {
          const { epoch } = event.value.position;
          position = { epoch, seq: 1 };
          await client.sendMessage({ token, send: { text: "Hello Bot" } });
        }
        if (event.case === "delta") {
          const { replyId, end, piece } = event.value;
          position.reply = { replyId, offset: end };
          heard += piece.value;
          break;
        }
      }
      return new Promise((resolve, reject) => {
        const events = [];
        const socket = new WebSocket(ws, ["duologue.v1.json"]);
        socket.onopen = () => socket.send(JSON.stringify({ open: { token, position } }));
        socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
        socket.onmessage = ({ data }) => {
          events.push(JSON.parse(data));
          if (events.at(-1).message?.seq === 2) resolve([heard, ...events]);
        };
      });
    },
    [slow.http, slow.ws, token],
  );
  const [heard, opened, started, ...rest] = seen;
  const answered = rest.pop();
  assert.equal(opened.opened.recovered, true);
  const deltas = rest.map(({ delta }) => delta.text);
  assert(deltas.length > 0, "resumed after the reply, not in the middle of it");
  assert.equal(started.replyStarted.offset, heard.length, "it continues where the page was");
  assert.equal(heard + deltas.join(""), SLOW_REPLY);
  assert.equal(answered.message.text, SLOW_REPLY);
});

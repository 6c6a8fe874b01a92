// Connect: its gRPC-Web transport over HTTP/1.1 and HTTP/2, and its gRPC one.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

import { Gateway, Inbox, REPLY, SLOWLY, SLOW_REPLY, contract, soon } from "./support.mjs";

const { ChatService, MessageStatus, Role } = contract;

let gateway, slow;

before(async () => {
  [gateway, slow] = [await Gateway.start(), await Gateway.start(...SLOWLY)];
});

after(async () => {
  await gateway.stop();
  await slow.stop();
});

const isReply = ({ event }) => event.case === "message" && event.value.role === Role.ASSISTANT;

// Reads a stream up to an event, and leaves it.
async function until(stream, last) {
  const seen = [];
  for await (const response of stream) {
    seen.push(response);
    if (last(response)) break;
  }
  return seen;
}

const transports = {
  "gRPC-Web over HTTP/1.1": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  "gRPC-Web over HTTP/2": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
  gRPC: (baseUrl) => createGrpcTransport({ baseUrl }),
};

for (const [name, transport] of Object.entries(transports)) {
  const connect = (to) => createClient(ChatService, transport(to.http));

  test(`${name}: a session is made, read and ended`, async () => {
    const client = connect(gateway);
    const { token, session } = await client.createToken({ name: "Éva 王" });
    assert.equal(session.name, "Éva 王");
    assert.equal((await client.refreshToken({ token })).session.id, session.id);
    await client.revokeToken({ token });
    await assert.rejects(client.refreshToken({ token }), { code: Code.Unauthenticated });
  });

  test(`${name}: a conversation with unary calls and Subscribe`, async () => {
    const client = connect(slow);
    const token = await slow.newToken();
    const said = new Inbox();
    const watching = (async () => {
      for await (const response of client.subscribe({ token })) {
        said.put(response);
        if (isReply(response)) break;
      }
    })();
    assert.equal((await said.next("opened")).event.case, "opened");
    const sent = await client.sendMessage({
      token,
      send: { text: "Hello Bot", clientMessageId: "m1" },
    });
    assert.equal(sent.accepted.seq, 1);
    const events = await said.until(isReply);
    await soon(watching);
    assert.deepEqual(
      events.slice(0, 2).map(({ event }) => event.case),
      ["message", "replyStarted"],
    );
    const deltas = events.slice(2, -1).map(({ event }) => event.value.piece.value);
    assert.equal(deltas.length, SLOW_REPLY.split(" ").length, "the reply was not streamed");
    assert.equal(deltas.join(""), SLOW_REPLY);
    assert.equal(events.at(-1).event.value.status, MessageStatus.COMPLETE);
  });

  test(`${name}: an aborted Subscribe is resumed in the middle of the reply`, async () => {
    const client = connect(slow);
    const token = await slow.newToken();
    await client.sendMessage({ token, send: { text: "Hello Bot" } });
    const before = await until(client.subscribe({ token }), ({ event }) => event.case === "delta");
    const { epoch } = before[0].event.value.position;
    const deltas = before.filter(({ event }) => event.case === "delta");
    const { replyId, end: offset } = deltas.at(-1).event.value;
    const position = { epoch, seq: 1, reply: { replyId, offset } };
    const after = await until(client.subscribe({ token, position }), isReply);
    assert(after[0].event.value.recovered);
    assert.equal(after[1].event.value.offset, offset, "it continues where the client was");
    const rest = after.slice(2, -1);
    assert(rest.length > 0, "resumed after the reply, not in the middle of it");
    const pieces = [...deltas, ...rest].map(({ event }) => event.value.piece.value);
    assert.equal(pieces.join(""), SLOW_REPLY);
  });

  test(`${name}: a stop keeps the text so far`, async () => {
    const client = connect(slow);
    const token = await slow.newToken();
    await client.sendMessage({ token, send: { text: "Hello Bot" } });
    let stopped;
    const seen = await until(client.subscribe({ token }), (response) => {
      if (response.event.case === "delta") stopped ??= client.stopReply({ token });
      return isReply(response);
    });
    assert.equal((await stopped).stopped, true);
    assert.equal(seen.at(-1).event.value.status, MessageStatus.STOPPED);
  });

  test(`${name}: every refusal has its code`, async () => {
    const client = connect(gateway);
    const token = await gateway.newToken();
    await client.sendMessage({ token, send: { text: "one", clientMessageId: "m1" } });
    const code = async (call) => ConnectError.from(await call.catch((error) => error)).code;
    assert.equal(await code(client.createToken({ name: " " })), Code.InvalidArgument);
    assert.equal(await code(client.refreshToken({ token: "nonsense" })), Code.Unauthenticated);
    assert.equal(await code(client.sendMessage({ token, send: { text: "" } })), Code.InvalidArgument);
    assert.equal(
      await code(client.sendMessage({ token, send: { text: "two", clientMessageId: "m1" } })),
      Code.AlreadyExists,
    );
    assert.equal(
      await code(until(client.subscribe({ token: "nonsense" }), () => false)),
      Code.Unauthenticated,
    );
  });

  test(`${name}: a deadline ends a stream`, async () => {
    const token = await gateway.newToken();
    const stream = connect(gateway).subscribe({ token }, { timeoutMs: 300 });
    await assert.rejects(until(stream, () => false), { code: Code.DeadlineExceeded });
  });
}

test("gRPC: Chat half-closed delivers the turn that was sent", async () => {
  const client = createClient(ChatService, createGrpcTransport({ baseUrl: gateway.http }));
  const token = await gateway.newToken();
  async function* requests() {
    yield { request: { case: "open", value: { token } } };
    yield { request: { case: "send", value: { text: "Hello Bot" } } };
  }
  const texts = [];
  for await (const { event } of client.chat(requests())) {
    if (event.case === "message") texts.push(event.value.text);
  }
  assert.deepEqual(texts, ["Hello Bot", REPLY]);
});

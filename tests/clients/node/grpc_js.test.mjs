// @grpc/grpc-js, with the contract loaded at run time: how most Node services
// speak gRPC.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Client, Metadata, credentials, loadPackageDefinition, status } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import { Gateway, Inbox, REPLY, SLOWLY, SLOW_REPLY, repository, soon } from "./support.mjs";

const definition = loadSync("duologue/v1/chat.proto", {
  includeDirs: [join(repository, "proto")],
  enums: String,
  oneofs: true,
});
const { ChatService } = loadPackageDefinition(definition).duologue.v1;
const UNKNOWN = "00000000-0000-4000-8000-000000000000";

let gateway, slow, client, slowClient;

before(async () => {
  [gateway, slow] = [await Gateway.start(), await Gateway.start(...SLOWLY)];
  client = new ChatService(gateway.address, credentials.createInsecure());
  slowClient = new ChatService(slow.address, credentials.createInsecure());
});

after(async () => {
  client.close();
  slowClient.close();
  await gateway.stop();
  await slow.stop();
});

function call(method, request, { on = client, ...options } = {}) {
  return new Promise((resolve, reject) => {
    on[method](request, new Metadata(), options, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

function bearer(token) {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

// A stream's events, and its status once it has ended.
function listen(stream) {
  const events = new Inbox();
  stream.on("data", (response) => events.put(response));
  stream.on("error", () => {}); // the status says it too
  const ended = new Promise((resolve) => stream.on("status", resolve));
  return { events, ended: () => soon(ended, "the end of the stream") };
}

const isReply = (response) => response.message?.role === "ROLE_ASSISTANT";

test("a session is made, read and ended", async () => {
  const made = await call("createToken", { name: " Ada " });
  assert.equal(made.session.name, "Ada");
  const read = await call("refreshToken", { token: made.token });
  assert.equal(read.session.id, made.session.id);
  assert.deepEqual(read.position, made.position);
  await call("revokeToken", { token: made.token });
  await assert.rejects(call("refreshToken", { token: made.token }), {
    code: status.UNAUTHENTICATED,
  });
});

test("half-close delivers the turns that were sent", async () => {
  const stream = slowClient.chat();
  const { events, ended } = listen(stream);
  stream.write({ open: { token: await slow.newToken() } });
  stream.write({ send: { text: "Hello Bot", clientMessageId: "m1" } });
  stream.end();
  const seen = await events.until(isReply);
  assert.equal(seen[0].event, "opened");
  const accepted = seen.find((response) => response.accepted).accepted;
  assert.deepEqual([accepted.seq, accepted.clientMessageId], [1, "m1"]);
  const deltas = seen.filter((response) => response.delta).map((response) => response.delta.text);
  assert.equal(deltas.join(""), SLOW_REPLY);
  assert.equal(seen.at(-1).message.text, SLOW_REPLY);
  assert.equal(seen.at(-1).message.status, "MESSAGE_STATUS_COMPLETE");
  assert.equal((await ended()).code, status.OK);
});

test("a cancelled stream is resumed in the middle of its reply", async () => {
  const token = await slow.newToken();
  const stream = slowClient.chat(bearer(token));
  const first = listen(stream);
  stream.write({ send: { text: "Hello Bot" } });
  const before = await first.events.until((response) => response.delta);
  const { epoch } = before[0].opened.position;
  const { delta } = before.at(-1);
  stream.cancel();
  assert.equal((await first.ended()).code, status.CANCELLED);

  const reply = { replyId: delta.replyId, offset: delta.end };
  const second = listen(slowClient.subscribe({ token, position: { epoch, seq: 1, reply } }));
  const after = await second.events.until(isReply);
  assert(after[0].opened.recovered);
  assert.equal(after[1].replyStarted.offset, delta.end, "it continues where the client was");
  const rest = after.filter((response) => response.delta).map((response) => response.delta.text);
  assert(rest.length > 0, "resumed after the reply, not in the middle of it");
  assert.equal(delta.text + rest.join(""), SLOW_REPLY);
});

test("a stop keeps the text so far", async () => {
  const token = await slow.newToken();
  const stream = slowClient.chat(bearer(token));
  const { events, ended } = listen(stream);
  stream.write({ send: { text: "Hello Bot" } });
  await events.until((response) => response.delta);
  assert.deepEqual(await call("stopReply", { token }, { on: slowClient }), { stopped: true });
  const { message } = (await events.until(isReply)).at(-1);
  assert.equal(message.status, "MESSAGE_STATUS_STOPPED");
  assert(message.text !== "" && message.text !== SLOW_REPLY && SLOW_REPLY.startsWith(message.text));
  stream.end();
  assert.equal((await ended()).code, status.OK);
});

test("a message without a stream is answered in the history", async () => {
  const token = await gateway.newToken();
  const watching = listen(client.subscribe({ token }));
  await watching.events.next("opened");
  const request = { token, send: { text: "Hello Bot", clientMessageId: "m1" } };
  const { accepted } = await call("sendMessage", request);
  assert.equal(accepted.duplicate ?? false, false);
  await watching.events.until(isReply);
  assert.equal((await call("sendMessage", request)).accepted.duplicate, true);
  assert.deepEqual(
    (await gateway.history(token)).map((message) => message.msg),
    ["Hello Bot", REPLY],
  );
});

test("a deadline ends a stream", async () => {
  const token = await gateway.newToken();
  const stream = client.subscribe({ token }, { deadline: Date.now() + 300 });
  assert.equal((await listen(stream).ended()).code, status.DEADLINE_EXCEEDED);
});

test("every refusal has its code", async () => {
  const token = await gateway.newToken();
  await call("sendMessage", { token, send: { text: "one", clientMessageId: "m1" } });
  const refusals = [
    ["createToken", { name: "  " }, status.INVALID_ARGUMENT],
    ["refreshToken", { token: UNKNOWN }, status.UNAUTHENTICATED],
    ["refreshToken", {}, status.UNAUTHENTICATED],
    ["sendMessage", { token, send: { text: "" } }, status.INVALID_ARGUMENT],
    ["sendMessage", { token, send: { text: "x".repeat(64 * 1024 + 1) } }, status.INVALID_ARGUMENT],
    ["sendMessage", { token, send: { text: "two", clientMessageId: "m1" } }, status.ALREADY_EXISTS],
  ];
  for (const [method, request, code] of refusals) {
    await assert.rejects(call(method, request), { code }, `${method} is not ${status[code]}`);
  }
});

test("what the gateway does not know is unimplemented", async () => {
  const plain = new Client(gateway.address, credentials.createInsecure());
  for (const path of ["/duologue.v1.ChatService/Foresee", "/no.Such/Thing"]) {
    const refused = new Promise((resolve) => {
      const same = (bytes) => bytes;
      plain.makeUnaryRequest(path, same, same, Buffer.alloc(0), resolve);
    });
    assert.equal((await soon(refused)).code, status.UNIMPLEMENTED);
  }
  plain.close();
});

test("a revoked session ends its streams", async () => {
  const token = await gateway.newToken();
  const { events, ended } = listen(client.subscribe({ token }));
  await events.next("opened");
  await gateway.revoke(token);
  const { error } = await events.next("error");
  assert.deepEqual([error.code, error.final], ["session_revoked", true]);
  await ended();
});

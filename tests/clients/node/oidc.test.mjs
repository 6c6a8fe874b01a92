// JSON Web Tokens of a real OpenID provider: its tokens, its key set, and the rotation of its keys.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import WebSocket from "ws";

import { AUDIENCE, Issuer, newKey } from "./issuer.mjs";
import { Gateway, contract, soon } from "./support.mjs";

const first = newKey("first", "RS256");
const second = newKey("second", "ES256");
let issuer, gateway;

before(async () => {
  issuer = await Issuer.start(first);
  gateway = await Gateway.start(
    "--auth", "jwt", "--bind-subject", "true",
    "--jwt-issuer", issuer.url, "--jwt-audience", AUDIENCE, "--jwt-jwks", `${issuer.url}/jwks`,
  );
});

after(async () => {
  issuer?.stop();
  await gateway?.stop();
});

const asCaller = (jwt) => ({ headers: { authorization: `Bearer ${jwt}` } });

async function create(jwt) {
  const answer = await fetch(`${gateway.http}/token?name=Ada`, { method: "POST", ...asCaller(jwt) });
  return { status: answer.status, ...(await answer.json()) };
}

test("a token of the provider creates, lists and opens sessions over every protocol", async () => {
  assert.equal((await fetch(`${gateway.http}/token?name=Ada`, { method: "POST" })).status, 401);
  const jwt = await issuer.token();
  const client = createClient(contract.ChatService, createGrpcTransport({ baseUrl: gateway.http }));
  const { token, session } = await client.createToken({ name: "Ada" }, asCaller(jwt));
  const { sessions } = await client.listSessions({}, asCaller(jwt));
  assert.deepEqual(sessions.map((listed) => listed.session.id), [session.id]);
  await assert.rejects(client.refreshToken({ token }), /credential/);
  await client.sendMessage({ token, send: { text: "Hi" } }, asCaller(jwt));
  // As a browser sends it, which can set no header of a WebSocket.
  const socket = new WebSocket(gateway.ws, ["duologue.v1.json", `bearer.${token}`, `credential.${jwt}`]);
  await soon(once(socket, "open"));
  assert.equal(socket.protocol, "duologue.v1.json");
  socket.send(JSON.stringify({ open: {} }));
  const [frame] = await soon(once(socket, "message"));
  assert.equal(JSON.parse(frame).opened.session.id, session.id);
  socket.close();
  const events = await fetch(`${gateway.http}/events?token=${token}`, asCaller(jwt));
  assert.equal(events.status, 200);
  await events.body.cancel();
});

test("the provider rotates its keys", async () => {
  const old = await issuer.token();
  issuer.use(second, first);
  const rotated = await issuer.token();
  // The gateway reads the key set for an unknown key, every few seconds at most.
  const accepted = async (jwt) => (await create(jwt)).status === 200;
  const until = async (jwt, expected) => {
    while ((await accepted(jwt)) !== expected) await sleep(200);
  };
  await soon(until(rotated, true), "the new key");
  assert(await accepted(old), "the old key is still published");
  const third = newKey("third", "RS256");
  issuer.use(third);
  await soon(until(await issuer.token(), true), "the third key");
  const { status, detail } = await create(old);
  assert.deepEqual([status, detail], [401, "The JWT is not signed with a key of the issuer"]);
});

test("the provider is away", async () => {
  const jwt = await issuer.token();
  issuer.stop();
  assert.equal((await create(jwt)).status, 200, "the keys are kept");
});

// buf curl: asks for the contract by reflection (v1), and speaks gRPC and
// gRPC-Web.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Gateway, REPLY, repository, soon } from "./support.mjs";

const buf = fileURLToPath(new URL("../node_modules/.bin/buf", import.meta.url));
const service = "duologue.v1.ChatService";

let gateway;

before(async () => {
  gateway = await Gateway.start();
});

after(() => gateway.stop());

async function curl(path, ...flags) {
  const process = spawn(buf, ["curl", ...flags, `${gateway.http}${path}`], { cwd: repository });
  process.stdin.end();
  const [[status], out, error] = await soon(
    Promise.all([once(process, "close"), text(process.stdout), text(process.stderr)]),
    "the end of buf curl",
    20_000,
  );
  return { status, out, error };
}

// The JSON documents it printed, one after the other.
function documents({ status, out, error }) {
  assert.equal(status, 0, error);
  return out
    .trim()
    .split(/(?<=\})\s*(?=\{)/)
    .map((document) => JSON.parse(document));
}

const reflection = ["--reflect-protocol", "grpc-v1", "--http2-prior-knowledge"];

test("it lists the services and their methods by reflection", async () => {
  const services = await curl("", "--protocol", "grpc", ...reflection, "--list-services");
  assert.equal(services.status, 0, services.error);
  const listed = services.out.trim().split("\n");
  for (const name of [service, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]) {
    assert(listed.includes(name), `${name} is not in ${listed}`);
  }
  const methods = await curl("", "--protocol", "grpc", ...reflection, "--list-methods");
  assert(methods.out.split("\n").includes(`${service}/Chat`), methods.out);
});

for (const protocol of ["grpc", "grpcweb"]) {
  const rpc = (method, data, ...flags) =>
    curl(`/${service}/${method}`, "--protocol", protocol, ...reflection, ...flags, "-d", data);

  test(`${protocol}: a session is made and read`, async () => {
    const [made] = documents(await rpc("CreateToken", '{"name":"Ada"}'));
    assert.equal(made.session.name, "Ada");
    const bearer = ["-H", `authorization: Bearer ${made.token}`];
    const [read] = documents(await rpc("RefreshToken", "{}", ...bearer));
    assert.equal(read.session.id, made.session.id);
  });

  test(`${protocol}: a refusal has its code`, async () => {
    const refused = await rpc("RefreshToken", '{"token":"nonsense"}');
    assert.equal(refused.status, 16 << 3); // UNAUTHENTICATED, as buf curl exits
    assert.equal(JSON.parse(refused.error).code, "unauthenticated");
  });
}

test("grpc: Chat in one line", async () => {
  const frames = `{"open":{"token":"${await gateway.newToken()}"}} {"send":{"text":"Hello Bot"}}`;
  const flags = ["--protocol", "grpc", ...reflection, "-d", frames];
  const events = documents(await curl(`/${service}/Chat`, ...flags));
  assert.equal(Object.keys(events[0])[0], "opened");
  assert.equal(events.filter((event) => event.message).at(-1).message.text, REPLY);
});

test("grpcweb: over HTTP/1.1, with the contract from a file", async () => {
  const flags = ["--protocol", "grpcweb", "--schema", "proto", "-d", '{"name":"Ada"}'];
  const [made] = documents(await curl(`/${service}/CreateToken`, ...flags));
  assert.equal(made.session.name, "Ada");
});

test("the health service answers for the chat service", async () => {
  const flags = ["--protocol", "grpc", ...reflection, "-d", JSON.stringify({ service })];
  const [health] = documents(await curl("/grpc.health.v1.Health/Check", ...flags));
  assert.deepEqual(health, { status: "SERVING" });
});

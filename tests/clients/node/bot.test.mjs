// The example bot in Node, behind the gateway.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import { Metadata, credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import WebSocket from "ws";

import { Gateway, Inbox, repository, soon } from "./support.mjs";

const definition = loadSync("duologue/v1/chat.proto", {
  includeDirs: [join(repository, "proto")],
  enums: String,
  oneofs: true,
  defaults: true,
});
const { ChatService } = loadPackageDefinition(definition).duologue.v1;
// Two seconds long, a word every tenth of one.
const LONG = Array.from({ length: 20 }, (_, n) => `word${n}`).join(" ");

// The example, run as its README does. What it prints can be waited for.
class Bot {
  static async start({ address = "localhost:0", ...settings } = {}) {
    const bot = new Bot();
    const own = Object.entries(settings).map(([name, value]) => [`BOT_${name}`, value]);
    const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("BOT_"));
    bot.lines = new Inbox();
    bot.process = spawn(process.execPath, [join(repository, "examples/bots/node/bot.js")], {
      env: {
        ...Object.fromEntries([...kept, ...own]),
        BOT_ADDR: address,
        // Where tests/run installs what the example's package.json names, too.
        NODE_PATH: join(repository, "tests/clients/node_modules"),
      },
      stdio: ["ignore", "pipe", "inherit"],
    });
    bot.exited = once(bot.process, "exit");
    createInterface(bot.process.stdout).on("line", (line) => bot.lines.put(line));
    try {
      [, bot.address] = await bot.says(/listening on (\S+)/);
    } catch (error) {
      await bot.kill();
      throw error;
    }
    return bot;
  }

  // The next line that it prints, which must be of this form.
  async says(pattern) {
    const line = await this.lines.next(`a line like ${pattern}`);
    const found = pattern.exec(line);
    assert(found, `the bot said ${line} and not ${pattern}`);
    return found;
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.exited;
  }

  // SIGTERM, and a clean exit.
  async stop() {
    this.process.kill("SIGTERM");
    const [status] = await soon(this.exited, "the bot's exit");
    assert.equal(status, 0);
  }
}

const asking = (bot, ...flags) => ["--responder", "grpc", "--bot-endpoint", bot, ...flags];
const isReply = (event) => event.message?.role === "ROLE_ASSISTANT";

// A conversation over gRPC.
function grpc(gateway, token) {
  const client = new ChatService(gateway.address, credentials.createInsecure());
  const stream = client.chat(new Metadata());
  const events = new Inbox();
  stream.on("data", (event) => events.put(event));
  stream.on("error", () => {});
  stream.write({ open: { token } });
  return {
    events,
    write: (request) => stream.write(request),
    close: () => (stream.cancel(), client.close()),
  };
}

// … and over WebSocket.
async function webSocket(gateway, token) {
  const socket = new WebSocket(gateway.ws, "duologue.v1.json");
  const events = new Inbox();
  socket.on("message", (frame) => events.put(JSON.parse(frame)));
  await soon(once(socket, "open"), "the handshake");
  const write = (request) => socket.send(JSON.stringify(request));
  write({ open: { token } });
  return { events, write, close: () => socket.terminate() };
}

async function turn(client, text) {
  client.write({ send: { text } });
  return (await client.events.until(isReply)).at(-1).message;
}

let bot, gateway;

before(async () => {
  bot = await Bot.start({ DELAY: "0.1" });
  gateway = await Gateway.start(...asking(`http://${bot.address}`));
});

after(async () => {
  await gateway.stop();
  await bot.stop();
});

for (const open of [grpc, webSocket]) {
  test(`${open.name}: the bot answers word by word and remembers`, async () => {
    const client = await open(gateway, await gateway.newToken());
    client.write({ send: { text: "Hello Bot" } });
    const heard = await client.events.until(isReply);
    const words = heard.filter(({ delta }) => delta).map(({ delta }) => delta.text);
    assert.deepEqual(words, ["Ada,", " you", " said:", " Hello", " Bot"]);
    const { text, status, finishReason, usage } = heard.at(-1).message;
    assert.deepEqual(
      { text, status, finishReason, ...usage },
      {
        text: "Ada, you said: Hello Bot",
        status: "MESSAGE_STATUS_COMPLETE",
        finishReason: "stop",
        inputTokens: 2,
        outputTokens: 5,
        estimated: false,
      },
    );
    const again = await turn(client, "Again");
    assert.equal(again.text, "Ada, you said: Again (and before that: Hello Bot)");
    client.close();
  });

  test(`${open.name}: the bot runs a tool within its reply`, async () => {
    const client = await open(gateway, await gateway.newToken());
    client.write({ send: { text: "/time" } });
    const heard = await client.events.until(isReply);
    const { parts, text, model } = heard.at(-1).message;
    assert.equal(model, "example-bot");
    const [{ toolCall: call }, { toolResult: result }, { text: said }] = parts;
    assert.equal(call.name, "clock");
    assert.equal(call.responderExecuted, true);
    assert.deepEqual(JSON.parse(call.arguments), { utc_offset: "0" });
    assert.equal(result.toolCallId, call.id);
    const time = JSON.parse(result.output);
    assert.match(time, /^\d\d:\d\d$/);
    assert.deepEqual([text, said], [`It is ${time}.`, text]);
    // The whole parts, then the words of the text.
    const whole = heard.filter(({ replyPart }) => replyPart).map(({ replyPart }) => replyPart);
    assert.deepEqual(whole.map(({ index }) => index), [0, 1]);
    const deltas = heard.filter(({ delta }) => delta).map(({ delta }) => delta);
    assert.equal(deltas.map((delta) => delta.text).join(""), text);
    assert(deltas.every(({ index }) => index === 2));
    client.close();
  });

  test(`${open.name}: a stop reaches the bot`, async () => {
    const client = await open(gateway, await gateway.newToken());
    client.write({ send: { text: LONG } });
    await client.events.until(({ delta }) => delta);
    client.write({ stop: {} });
    const [, id, words] = await bot.says(/^stopped (\S+) after (\d+) words/);
    const { message } = (await client.events.until(isReply)).at(-1);
    assert.equal(message.id, id);
    assert.equal(message.status, "MESSAGE_STATUS_STOPPED");
    assert(Number(words) < LONG.split(" ").length);
    assert(`Ada, you said: ${LONG}`.startsWith(message.text));
    assert(message.usage.estimated);
    client.close();
  });
}

test("the session knows what its replies took", async () => {
  const token = await gateway.newToken();
  const client = grpc(gateway, token);
  const first = await turn(client, "One");
  const second = await turn(client, "Two");
  const stub = new ChatService(gateway.address, credentials.createInsecure());
  const { usage } = await new Promise((resolve, reject) => {
    stub.refreshToken({ token }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
  const sum = (name) => first.usage[name] + second.usage[name];
  assert.deepEqual(usage, {
    inputTokens: sum("inputTokens"),
    outputTokens: sum("outputTokens"),
    estimated: false,
  });
  stub.close();
  client.close();
});

test("a bot that dies fails its reply and is found again", async () => {
  const mortal = await Bot.start({ DELAY: "0.1" });
  const own = await Gateway.start(...asking(`http://${mortal.address}`));
  const client = grpc(own, await own.newToken());
  client.write({ send: { text: LONG } });
  await client.events.until(({ delta }) => delta);
  await mortal.kill();
  const { message } = (await client.events.until(isReply)).at(-1);
  assert.equal(message.status, "MESSAGE_STATUS_FAILED");
  assert.equal(message.failure.code, "upstream_truncated");
  assert(message.text && `Ada, you said: ${LONG}`.startsWith(message.text));

  const gone = await turn(client, "Anybody?");
  assert.equal(gone.failure.code, "upstream_unavailable");

  const back = await Bot.start({ address: mortal.address });
  assert.equal((await turn(client, "Hello")).status, "MESSAGE_STATUS_COMPLETE");
  client.close();
  await own.stop();
  await back.stop();
});

test("the token opens the bot", async () => {
  const closed = await Bot.start({ DELAY: "0", TOKEN: "s3cret-canary" });
  for (const [flags, code] of [
    [["--bot-token", "s3cret-canary"], undefined],
    [["--bot-token", "wr0ng-canary"], "upstream_auth"],
    [[], "upstream_auth"],
  ]) {
    const own = await Gateway.start(...asking(`http://${closed.address}`, ...flags));
    const client = grpc(own, await own.newToken());
    assert.equal((await turn(client, "Hello")).failure?.code, code);
    client.close();
    await own.stop();
    assert.doesNotMatch(own.log, /canary/);
  }
  await closed.stop();
});

test("TLS with a private CA", async () => {
  const folder = await mkdtemp(join(tmpdir(), "duologue-"));
  const [cert, key] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  // Self-signed, so that the file itself is trusted.
  const request = [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
    ...["-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"],
    ...["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"],
  ];
  execFileSync("openssl", request, { stdio: "pipe" });
  const secure = await Bot.start({ DELAY: "0", TLS_CERT: cert, TLS_KEY: key });
  const own = await Gateway.start(
    ...asking(`https://${secure.address}`, "--bot-ca-cert", cert),
  );
  const client = grpc(own, await own.newToken());
  assert.equal((await turn(client, "Hello")).text, "Ada, you said: Hello");
  client.close();
  await own.stop();
  await secure.stop();
  await rm(folder, { recursive: true });
});

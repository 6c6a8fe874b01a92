// What the Node and browser clients share: a gateway to talk to, the wire
// contract's generated code, and a way to wait for events.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";

export const repository = fileURLToPath(new URL("../../..", import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(repository, "target");
const binary = process.env.DUOLOGUE_BIN ?? join(target, "release", "duologue");

// tests/run generates this beside the modules that it imports.
const modules = await realpath(new URL("../node_modules", import.meta.url));
export const generated = join(dirname(modules), "generated", "duologue", "v1", "chat_pb.js");
export const contract = await import(pathToFileURL(generated).href);

// The default reply of the simulated responder, and a longer one for tests that need
// time during a reply.
export const REPLY = "Response: Simulating response from the GPT service";
export const SLOW_REPLY = Array.from({ length: 30 }, (_, n) => `word${n}`).join(" ");
export const SLOWLY = ["--simulated-delay", "25ms", "--simulated-reply", SLOW_REPLY];

// Rejects where nothing has come of a promise in time.
export async function soon(promise, what = "an event", milliseconds = 10_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come in time`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// What an emitter or a callback produces, to be taken one at a time.
export class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const taker = this.#waiting.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  get size() {
    return this.#items.length;
  }

  next(what) {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), what);
  }

  async until(last) {
    const items = [];
    do items.push(await this.next());
    while (!last(items.at(-1)));
    return items;
  }
}

// A running gateway, on a free port, with flags of the test's own.
export class Gateway {
  static async start(...flags) {
    const gateway = new Gateway();
    gateway.log = "";
    gateway.tokens = [];
    // A folder of its own: no .env to read, nothing to leave behind.
    gateway.folder = await mkdtemp(join(tmpdir(), "duologue-"));
    gateway.flags = ["--ops-addr", "off", ...(flags.includes("--store") ? [] : ["--store", "memory"]), ...flags];
    await gateway.#run("127.0.0.1:0");
    return gateway;
  }

  async #run(address) {
    const environment = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !/^(DUOLOGUE_|APP_ENV$)/.test(name)),
    );
    this.process = spawn(binary, ["--addr", address, ...this.flags], {
      cwd: this.folder,
      env: environment,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.exited = once(this.process, "close");
    const listening = new Promise((resolve, reject) => {
      createInterface(this.process.stderr).on("line", (line) => {
        this.log += `${line}\n`;
        const found = /listening on \S+:(\d+)/.exec(line);
        if (found) resolve(Number(found[1]));
      });
      this.exited.then(() => reject(new Error(`it did not start:\n${this.log}`)), reject);
    });
    this.port = await soon(listening, "the line 'listening on'");
  }

  // As by `kill -9`.
  async kill() {
    this.process.kill("SIGKILL");
    await soon(this.exited, "the gateway's end");
  }

  // Where it was, with what it kept.
  restart() {
    return this.#run(this.address);
  }

  get address() {
    return `127.0.0.1:${this.port}`;
  }

  get http() {
    return `http://${this.address}`;
  }

  get ws() {
    return `ws://${this.address}/chat`;
  }

  // A new session's token, over REST.
  async newToken(name = "Ada") {
    const answer = await fetch(`${this.http}/token?name=${name}`, { method: "POST" });
    assert.equal(answer.status, 200);
    const { token } = await answer.json();
    this.tokens.push(token);
    return token;
  }

  // The session's messages, over REST.
  async history(token) {
    const answer = await fetch(`${this.http}/refresh_token?token=${token}`);
    assert.equal(answer.status, 200);
    return (await answer.json()).messages;
  }

  async revoke(token) {
    const answer = await fetch(`${this.http}/token?token=${token}`, { method: "DELETE" });
    assert.equal(answer.status, 204);
  }

  // SIGTERM, a clean exit, and a log that gives nothing away.
  async stop() {
    this.process.kill("SIGTERM");
    let status, signal;
    try {
      [status, signal] = await soon(this.exited, "the gateway's exit", 35_000);
    } finally {
      this.process.kill("SIGKILL");
      await rm(this.folder, { recursive: true, force: true });
    }
    assert.deepEqual([status, signal], [0, null], this.log);
    assert.doesNotMatch(this.log, /panicked/);
    for (const token of this.tokens) assert(!this.log.includes(token), "a token in the log");
  }
}

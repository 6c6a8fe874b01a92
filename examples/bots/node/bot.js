// A bot for Duologue, in Node: it repeats each message, word by word, and
// knows the earlier messages, which the gateway sends with every call. Asked for
// the time, it runs a tool of its own.
//
//     BOT_ADDR      where it listens             127.0.0.1:50051
//     BOT_TOKEN     what the gateway must bring  nothing
//     BOT_DELAY     seconds between two words    0.05
//     BOT_TLS_CERT  files in PEM form, for TLS   without TLS
//     BOT_TLS_KEY

const { createHash, timingSafeEqual } = require("node:crypto");
const { once } = require("node:events");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");

const { Server, ServerCredentials, loadPackageDefinition, status } = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const TOKEN = process.env.BOT_TOKEN ?? "";
const DELAY = Number(process.env.BOT_DELAY ?? "0.05") * 1000;

const contract = loadSync("duologue/v1/responder.proto", {
  includeDirs: [join(__dirname, "..", "..", "..", "proto")],
  enums: String,
  keepCase: true,
  defaults: true,
});
const { ResponderService } = loadPackageDefinition(contract).duologue.v1;

// Put your own here: ask a model, search a shop, play a game.
function answerTo({ name, message, history }) {
  const text = `${name}, you said: ${message.text}`;
  const before = history.filter(({ role }) => role === "ROLE_USER").at(-1);
  return before ? `${text} (and before that: ${before.text})` : text;
}

const asksForTime = ({ message }) => /^\/time|what time/i.test(message.text);

// The tool: the time of day at an offset in hours, such as "2" or "-3.5".
function clock(utcOffset) {
  const there = new Date(Date.now() + Number(utcOffset) * 3_600_000);
  return there.toISOString().slice(11, 16);
}

// The call of the tool, its result, and what to say about it.
function runClock({ metadata }) {
  // The client gave it to its session.
  const utc_offset = metadata.utc_offset ?? "0";
  const tool_call = {
    id: "clock-1",
    name: "clock",
    arguments: JSON.stringify({ utc_offset }),
    // This bot runs the tool. Without it the reply would end, and the client would run it.
    responder_executed: true,
  };
  const finish = (output, text, is_error = false) => {
    const tool_result = { tool_call_id: tool_call.id, output: JSON.stringify(output), is_error };
    return [[{ tool_call }, { tool_result }], text];
  };
  try {
    const time = clock(utc_offset);
    return finish(time, `It is ${time}.`);
  } catch (error) {
    return finish(error.message, "My clock is broken.", true);
  }
}

// Of equal length, and compared in constant time.
function isToken(brought) {
  const hash = (text) => createHash("sha256").update(text).digest();
  return !TOKEN || timingSafeEqual(hash(brought), hash(`Bearer ${TOKEN}`));
}

async function respond(call) {
  if (!isToken(String(call.metadata.get("authorization")[0] ?? ""))) {
    call.emit("error", { code: status.UNAUTHENTICATED, details: "the token is wrong" });
    return;
  }
  // The reply was stopped, or the gateway has disconnected: all work for the reply must
  // end, here the loop below.
  const stopped = new AbortController();
  call.on("cancelled", () => stopped.abort());
  const { request } = call;
  const [parts, text] = asksForTime(request) ? runClock(request) : [[], answerTo(request)];
  const words = text.split(" ");
  // Options come from the client, as far as the operator allows them.
  const limit = request.options?.max_output_tokens || words.length;
  let said = 0;
  try {
    for (const part of parts) call.write({ part });
    for (const word of words.slice(0, limit)) {
      const room = call.write({ delta: { text: said ? ` ${word}` : word } });
      said += 1;
      // Nothing is piled up for a gateway that reads slowly.
      if (!room) await once(call, "drain", { signal: stopped.signal });
      await sleep(DELAY, undefined, { signal: stopped.signal });
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    console.log(`stopped ${request.reply_id} after ${said} words`);
    return;
  }
  const input_tokens = request.message.text.split(/\s+/).length;
  const finish_reason = limit >= words.length ? "stop" : "length";
  const usage = { input_tokens, output_tokens: said };
  // Without it the gateway takes the reply for one that was cut short.
  call.write({ outcome: { finish_reason, usage, model: "example-bot" } });
  call.end();
}

const server = new Server();
server.addService(ResponderService.service, {
  respond: (call) =>
    respond(call).catch((error) => call.emit("error", { code: status.INTERNAL, details: error.message })),
});

const addr = process.env.BOT_ADDR ?? "127.0.0.1:50051";
const { BOT_TLS_CERT, BOT_TLS_KEY } = process.env;
const credentials = BOT_TLS_CERT
  ? ServerCredentials.createSsl(null, [
      { private_key: readFileSync(BOT_TLS_KEY), cert_chain: readFileSync(BOT_TLS_CERT) },
    ])
  : ServerCredentials.createInsecure();
server.bindAsync(addr, credentials, (error, port) => {
  if (error) throw error;
  console.log(`listening on ${addr.replace(/:\d+$/, "")}:${port}`);
});
for (const name of ["SIGTERM", "SIGINT"]) {
  process.on(name, () => server.tryShutdown(() => process.exit(0))); // replies may finish
}

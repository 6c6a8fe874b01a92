// Chromium: the example of docs/OPERATIONS.md in which a page logs in with a JWT.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { AUDIENCE, Issuer, newKey } from "../node/issuer.mjs";
import { Gateway, REPLY, repository } from "../node/support.mjs";
import { launch } from "./support.mjs";

const HEADING = "### JWTs from a browser\n";

// The settings and the script of the example.
async function example() {
  const text = await readFile(join(repository, "docs", "OPERATIONS.md"), "utf8");
  const section = text.split(HEADING)[1].split("\n### ")[0];
  const block = (language) => section.split("```" + language + "\n")[1].split("```")[0];
  const lines = block("ini").split("\n").filter((line) => line && !line.startsWith("#"));
  return { settings: new Map(lines.map((line) => line.split("="))), script: block("js") };
}

test("a page creates a session with a JWT, chats, and brings a newer JWT", async () => {
  const issuer = await Issuer.start(newKey("first", "RS256"));
  const { settings, script } = await example();
  settings.set("DUOLOGUE_JWT_ISSUER", issuer.url);
  settings.set("DUOLOGUE_JWT_AUDIENCE", AUDIENCE);
  settings.set("DUOLOGUE_JWT_JWKS", `${issuer.url}/jwks`);
  const flags = [...settings].flatMap(([name, value]) => [
    `--${name.replace("DUOLOGUE_", "").toLowerCase().replaceAll("_", "-")}`,
    value,
  ]);
  const gateway = await Gateway.start(...flags);
  const browser = await launch();
  try {
    const page = await browser.newPage();
    // A document of the gateway's own origin.
    await page.goto(`${gateway.http}/test`);
    const [opening, renewal] = script
      .replace("wss://chat.example.com/chat", gateway.ws)
      .split("// Before the JWT expires, on the same stream:\n");
    const run = new Function(
      "jwt",
      "newerJwt",
      `return (async () => {
        ${opening}
        const frames = [];
        const until = (wanted) => new Promise((resolve, reject) => {
          const look = () => frames.some((frame) => wanted(frame)) && resolve(frames);
          chat.onmessage = ({ data }) => { frames.push(JSON.parse(data)); look(); };
          chat.onclose = ({ code, reason }) => reject(new Error("closed: " + code + " " + reason));
        });
        await new Promise((resolve) => { chat.onopen = resolve; });
        chat.send(JSON.stringify({ open: {} }));
        await until((frame) => frame.opened);
        ${renewal}
        chat.send(JSON.stringify({ send: { text: "Hello Bot" } }));
        await until((frame) => frame.message?.role === "ROLE_ASSISTANT");
        // The token alone opens nothing.
        const alone = await fetch("/refresh_token?token=" + token);
        return { frames, alone: alone.status };
      })()`,
    );
    const expression = `(${run})(${JSON.stringify(await issuer.token())}, ${JSON.stringify(await issuer.token())})`;
    const { frames, alone } = await page.evaluate(expression);
    assert.equal(frames.at(-1).message.text, REPLY);
    assert.deepEqual(frames.filter((frame) => frame.error), []);
    assert.equal(alone, 401);
  } finally {
    await browser.close();
    await gateway.stop();
    issuer.stop();
  }
});

// Chromium: a page that the gateway was not told to trust gets nothing, whatever
// it tries, and one that it was told to trust gets everything.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Gateway, REPLY } from "../node/support.mjs";
import { Site, launch, open } from "./support.mjs";

let browser, site, gateway;

before(async () => {
  [browser, site] = [await launch(), await Site.start()];
});

after(async () => {
  await browser.close();
  site.stop();
});

// What a page gets out of the gateway by every means that it has.
async function attempt(page, gateway, token) {
  return page.evaluate(
    async ([http, ws, token]) => {
      const outcome = (promise) => promise.then(String, () => "refused");
      const socket = (protocols) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(`${ws}?token=${token}`, protocols);
          socket.onopen = () => protocols.length || socket.send("Hello Bot");
          socket.onmessage = ({ data }) => resolve(protocols.length ? "attached" : data);
          socket.onclose = reject;
        });
      const events = () =>
        new Promise((resolve, reject) => {
          const source = new EventSource(`${http}/events?token=${token}`);
          source.onmessage = () => resolve("attached");
          source.onerror = reject;
        });
      const client = globalThis.duologue.chatService(http);
      return {
        simple: await outcome(fetch(`${http}/test`).then((answer) => answer.text())),
        preflighted: await outcome(
          fetch(`${http}/refresh_token`, { headers: { authorization: `Bearer ${token}` } }).then(
            (answer) => answer.status,
          ),
        ),
        grpcWeb: await outcome(client.refreshToken({ token }).then(() => "read")),
        events: await outcome(events()),
        plain: await outcome(socket([])),
        structured: await outcome(socket(["duologue.v1.json"])),
      };
    },
    [gateway.http, gateway.ws, token],
  );
}

const EVERYTHING = {
  simple: '{"msg":"API is Online"}',
  preflighted: "200",
  grpcWeb: "read",
  events: "attached",
  plain: REPLY,
  structured: "attached",
};
const NOTHING = Object.fromEntries(Object.keys(EVERYTHING).map((key) => [key, "refused"]));

async function seenFrom(origin, ...flags) {
  gateway = await Gateway.start(...flags);
  const page = await open(browser, origin);
  try {
    return await attempt(page, gateway, await gateway.newToken());
  } finally {
    await page.context().close();
    await gateway.stop();
  }
}

test("a foreign page is refused by every protocol", async () => {
  const seen = await seenFrom(site.origin("127.0.0.1"), "--allowed-origins", "https://example.com");
  assert.deepEqual(seen, NOTHING);
});

test("a page on the list is served by every protocol", async () => {
  const trusted = site.origin("127.0.0.1");
  const seen = await seenFrom(trusted, "--allowed-origins", `https://example.com,${trusted}`);
  assert.deepEqual(seen, EVERYTHING);
});

test("in development a page on any localhost port is served", async () => {
  assert.deepEqual(await seenFrom(site.origin("localhost")), EVERYTHING);
});

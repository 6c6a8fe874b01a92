// The page of examples/browser, under what happens to pages.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Gateway, SLOWLY, SLOW_REPLY, repository, soon } from "../node/support.mjs";
import { launch } from "./support.mjs";

const TYPES = { html: "text/html", js: "text/javascript" };
let browser, site, url;

before(async () => {
  browser = await launch();
  site = createServer(async (request, response) => {
    const name = new URL(request.url, "http://localhost").pathname.slice(1) || "index.html";
    const body = await readFile(join(repository, "examples", "browser", name)).catch(() => null);
    const type = TYPES[name.split(".").pop()] ?? "text/plain";
    response.writeHead(body ? 200 : 404, { "content-type": type }).end(body);
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
  url = `http://localhost:${site.address().port}`;
});

after(async () => {
  await browser.close();
  site.closeAllConnections();
  site.close();
});

async function visit(gateway) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.failures = [];
  page.on("pageerror", (error) => page.failures.push(String(error)));
  page.on("dialog", (dialog) => dialog.accept("Ada"));
  await page.goto(`${url}/?gateway=${gateway.http}`);
  await page.getByText("connected", { exact: true }).waitFor();
  return page;
}

async function say(page, text) {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

const shown = (page) => page.locator("#log li").allTextContents();
const begun = (page) => page.locator("li.assistant.pending", { hasText: "word3" }).waitFor();
const whole = (page) => page.locator("li.assistant:not(.pending)", { hasText: SLOW_REPLY }).waitFor();

test("a reply survives a reload of its page, and a second tab sees it too", async () => {
  const gateway = await Gateway.start(...SLOWLY);
  const page = await visit(gateway);
  await say(page, "Hello <b>Bot</b>");
  await begun(page);
  await page.reload();
  const other = await page.context().newPage();
  await other.goto(page.url());
  await Promise.all([whole(page), whole(other)]);
  for (const tab of [page, other]) {
    assert.deepEqual(await shown(tab), ["Hello <b>Bot</b>", SLOW_REPLY]);
  }
  assert.deepEqual(page.failures, []);
  await page.context().close();
  await gateway.stop();
});

test("a reply is stopped, and the page says so", async () => {
  const gateway = await Gateway.start(...SLOWLY);
  const page = await visit(gateway);
  await say(page, "Hello Bot");
  await begun(page);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator("li.assistant:not(.pending) small", { hasText: "stopped" }).waitFor();
  assert.equal((await shown(page)).length, 2);
  await say(page, "Once more");
  await whole(page);
  assert.deepEqual(page.failures, []);
  await page.context().close();
  await gateway.stop();
});

test("a gateway that is killed in the middle of a reply loses nothing and says nothing twice", async () => {
  const gateway = await Gateway.start("--store", "sqlite:chat.db", ...SLOWLY);
  const page = await visit(gateway);
  await say(page, "Hello Bot");
  await begun(page);
  await gateway.kill();
  await page.getByText("connection lost, trying again …").waitFor();
  await say(page, "Are you there?");
  await gateway.restart();
  await soon(page.waitForFunction(
    (reply) => [...document.querySelectorAll("li.assistant:not(.pending)")]
      .filter((item) => item.textContent === reply).length === 2,
    SLOW_REPLY,
  ), "both replies", 30_000);
  const [kept] = await page.evaluate(() => Object.values(localStorage));
  const log = await gateway.history(JSON.parse(kept).token);
  assert.equal(log.length, 4);
  assert.deepEqual(await shown(page), log.map(({ msg }) => msg));
  assert.deepEqual(page.failures, []);
  await page.context().close();
  await gateway.stop();
});

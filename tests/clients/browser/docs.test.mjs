// Chromium: the documentation renders without another server.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Gateway } from "../node/support.mjs";
import { launch } from "./support.mjs";

let browser, gateway;

before(async () => {
  [browser, gateway] = [await launch(), await Gateway.start()];
});

after(async () => {
  await browser.close();
  await gateway.stop();
});

test("the documentation renders without asking any other host", async () => {
  const page = await browser.newPage();
  const asked = [];
  const failed = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("requestfailed", (request) => failed.push(request.url()));
  page.on("response", (response) => response.status() < 400 || failed.push(response.url()));
  page.on("pageerror", (error) => failed.push(String(error)));

  await page.goto(`${gateway.http}/docs`);
  for (const path of ["/token", "/refresh_token", "/messages", "/stop", "/events"]) {
    await page.locator(`.opblock-summary-path[data-path="${path}"]`).first().waitFor();
  }
  assert.deepEqual(failed.filter((url) => !url.endsWith("/favicon.ico")), []);
  const elsewhere = asked.filter(
    (url) => !url.startsWith(`${gateway.http}/`) && !url.startsWith("data:"),
  );
  assert.deepEqual(elsewhere, []);
});

test("the documentation can be tried out", async () => {
  const page = await browser.newPage();
  await page.goto(`${gateway.http}/docs`);
  const route = page.locator(".opblock", { has: page.locator('[data-path="/test"]') }).first();
  await route.locator(".opblock-summary").click();
  await route.getByRole("button", { name: "Try it out" }).click();
  await route.getByRole("button", { name: "Execute" }).click();
  await route.locator(".live-responses-table").getByText("API is Online").first().waitFor();
});

// A browser, and a page of ours in it, from another origin than the gateway's.

import { createServer } from "node:http";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

import { generated } from "../node/support.mjs";

// As root there is no sandbox; the rest keeps Chromium from calling home.
const QUIETLY = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export function launch() {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: QUIETLY });
}

async function bundle() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("page.js", import.meta.url))],
    alias: { "duologue:contract": generated },
    bundle: true,
    format: "iife",
    write: false,
    logLevel: "warning",
  });
  return outputFiles[0].text;
}

// Serves the page on a port of its own, which makes it an origin of its own.
export class Site {
  static async start() {
    const site = new Site();
    const script = await bundle();
    site.server = createServer((request, response) => {
      const [type, body] =
        request.url === "/page.js"
          ? ["text/javascript", script]
          : ["text/html", '<!doctype html><title>page</title><script src="/page.js"></script>'];
      response.writeHead(200, { "content-type": `${type}; charset=utf-8` }).end(body);
    });
    site.server.listen(0, "127.0.0.1");
    await once(site.server, "listening");
    return site;
  }

  // By name or by number: to a browser these are two origins.
  origin(host = "localhost") {
    return `http://${host}:${this.server.address().port}`;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

// A fresh page on a site; whatever fails in it unasked fails the test.
export async function open(browser, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.failures = [];
  page.on("pageerror", (error) => page.failures.push(String(error)));
  await page.goto(url);
  return page;
}

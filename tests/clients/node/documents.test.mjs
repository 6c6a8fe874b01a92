// The AsyncAPI document, read by AsyncAPI's own parser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

import { Gateway } from "./support.mjs";

test("asyncapi.yaml is a valid AsyncAPI document", async () => {
  const gateway = await Gateway.start();
  try {
    const response = await fetch(`${gateway.http}/asyncapi.yaml`);
    const { document, diagnostics } = await new Parser().parse(await response.text());
    const errors = diagnostics.filter(({ severity }) => severity === DiagnosticSeverity.Error);
    assert.deepEqual(errors, []);
    assert.ok(document.channels().all().length > 0);
  } finally {
    await gateway.stop();
  }
});

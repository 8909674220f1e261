// Reads an AsyncAPI document with the AsyncAPI project's own parser; what is wrong with it goes to standard output.
// Status 0: nothing is; a note that a newer version of AsyncAPI exists is no fault.

import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const WARNING = 1;

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const faults = diagnostics.filter(({ severity }) => severity <= WARNING);
for (const { code, message, path } of faults) {
  console.log(`${path.join("/")}: ${message} (${code})`);
}
process.exitCode = document && faults.length === 0 ? 0 : 1;

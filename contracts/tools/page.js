// Writes one HTML file that shows an AsyncAPI document: all that it needs is inside, nothing is fetched.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Parser, stringify } from "@asyncapi/parser";

const require = createRequire(import.meta.url);
const [, , source, target] = process.argv;

const part = (path) => readFileSync(require.resolve(`@asyncapi/react-component/${path}`), "utf8");
// Inside a script element, only this sequence would end it early.
const asScript = (text) => text.replaceAll("</script", "<\\/script");

const { document, diagnostics } = await new Parser().parse(readFileSync(source, "utf8"));
if (!document) {
  console.error(diagnostics.map(({ message }) => message).join("\n"));
  process.exit(1);
}

const show = { sidebar: true, info: true, servers: true, operations: true, messages: true, schemas: false, errors: true };
// The document speaks of the worker; the page speaks to those who build against it.
const labels = { replyLabel: "publish", receiveLabel: "publish", sendLabel: "consume" };
const config = { show, expand: { messageExamples: true }, ...labels };

writeFileSync(
  target,
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${document.info().title()} ${document.info().version()}: contract</title>
<style>${part("styles/default.min.css")}</style>
<style>${readFileSync(new URL("page.css", import.meta.url), "utf8")}</style>
</head>
<body>
<noscript>This page needs JavaScript; asyncapi.json beside it says the same.</noscript>
<div id="contract"></div>
<script>${asScript(part("browser/standalone/without-parser.js"))}</script>
<script>
AsyncApiStandalone.render(
  { schema: ${asScript(stringify(document))}, config: ${JSON.stringify(config)} },
  window.document.getElementById("contract"),
);
// A message's fields are what one comes for: shown without a click, once the library has come to rest.
let rest;
new MutationObserver((_changes, observer) => {
  clearTimeout(rest);
  rest = setTimeout(() => {
    observer.disconnect();
    [...window.document.querySelectorAll(".panel-item--center button")]
      .filter((each) => each.innerText.trim() === "Payload")
      .forEach((each) => each.click());
  }, 200);
}).observe(window.document.getElementById("contract"), { childList: true, subtree: true });
</script>
</body>
</html>
`,
);

// Reads request targets, one a line, as frameworks on Node do. Writes for each the decoded path in hexadecimal, once read
// against a base and once behind a host.
const lines = require("readline").createInterface({ input: process.stdin });
const hex = (url) => Buffer.from(unescape(url.pathname), "latin1").toString("hex");
lines.on("line", (target) => {
  process.stdout.write(`${hex(new URL(target, "http://host"))} ${hex(new URL("http://host" + target))}\n`);
});

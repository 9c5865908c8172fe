// A headless Chromium that is driven line by line: one JSON request on standard input, one JSON answer on standard output.
// What is asked and what it must show stands in tests/console.rs; here is only how a browser is asked.
//
// The browser is the system's (Debian's package `chromium`); nothing is downloaded.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const [, , executablePath] = process.argv;

const browser = await chromium.launch({
  executablePath,
  // Root has no sandbox of its own, and a container little shared memory. No look-up leaves the machine.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"],
});

const PATIENCE_MS = 60_000;

let context;
let page;
/** Everything that the page asked for, in order: address, when (ms, by the browser's clock), the status of its answer. */
let requests = [];
/** Console errors, page errors, failed requests. */
let errors = [];

const commands = {
  /** A new page of this size and colour scheme, with nothing remembered. */
  async open({ url, width, height, scheme, scale }) {
    await context?.close();
    requests = [];
    errors = [];
    context = await browser.newContext({
      viewport: { width, height }, colorScheme: scheme, deviceScaleFactor: scale, locale: "en-GB", timezoneId: "UTC",
      hasTouch: width < 600, isMobile: width < 600, reducedMotion: "reduce",
    });
    // Axe is put into the page by the test alone; the page's own policy stays in force for everything else.
    page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") errors.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => errors.push(`page: ${error.message}`));
    page.on("crash", () => errors.push("the page crashed"));
    page.on("request", (request) => {
      const seen = { url: request.url(), method: request.method(), at: Date.now() };
      requests.push(seen);
      request.response().then(async (answer) => {
        seen.status = answer?.status();
        // We may hear of a request long after it was made, on a busy machine.
        if (request.timing().startTime > 0) seen.at = request.timing().startTime;
        if (answer && /\/v1\/(cohorts|flows|users)/.test(seen.url)) seen.body = await answer.json();
      }).catch(() => {});
    });
    page.on("requestfailed", (request) => {
      // A stream ends when the page leaves it, and only then.
      const why = request.failure()?.errorText;
      if (!(why === "net::ERR_ABORTED" && request.url().includes("/v1/transitions"))) {
        errors.push(`request: ${request.url()}: ${why}`);
      }
    });
    await page.goto(url, { waitUntil: "load" });
  },
  /** Waits until an expression is true in the page, and returns its value. */
  async until({ expression }) {
    // By the debugger, again and again: Playwright's own waiting would evaluate text in the page, which its policy forbids.
    for (const began = performance.now(); performance.now() < began + PATIENCE_MS;) {
      const value = await page.evaluate(expression);
      if (value) return value;
      await page.waitForTimeout(50);
    }
    throw new Error(`waited ${PATIENCE_MS} ms in vain for ${expression}; the page shows ${await page.innerText("main")}`);
  },
  /** The value of an expression in the page. */
  async read({ expression }) {
    return page.evaluate(expression);
  },
  async click({ selector }) {
    await page.locator(selector).first().click();
  },
  async fill({ selector, text }) {
    await page.locator(selector).fill(text);
  },
  async select({ selector, value }) {
    await page.locator(selector).selectOption(value);
  },
  async press({ key }) {
    await page.keyboard.press(key);
  },
  /** Violations that axe-core finds in the page as it is now. */
  async accessibility() {
    // By the debugger, which no content policy concerns.
    await page.evaluate((await import("node:fs")).readFileSync(axe, "utf8"));
    const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    return {
      passes: passes.length,
      violations: violations.map(({ id, impact, help, nodes }) => ({
        id, impact, help, nodes: nodes.slice(0, 5).map((node) => `${node.target.join(" ")}: ${node.failureSummary}`),
      })),
    };
  },
  async picture({ path, full, selector }) {
    if (selector) await page.locator(selector).screenshot({ path });
    else await page.screenshot({ path, fullPage: full });
  },
  /** The requests since the last call of this; a stream without an answer yet has no status. */
  async requests() {
    return requests.splice(0);
  },
  /** The errors since the last call of this. */
  async errors() {
    return errors.splice(0);
  },
  async wait({ ms }) {
    await page.waitForTimeout(ms);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[command](parameters)) ?? null };
  } catch (error) {
    answer = { error: `${command}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();

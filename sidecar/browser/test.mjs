// Copyright (C) The ngx_vd_module authors
// The pages in a real browser, over a real sidecar and nginx (serve.py).
//
// usage: node test.mjs DIRECTORY     where npm ci was run; screenshots go to
//                                    ../screenshots beside it

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

const modules = path.resolve(process.argv[2]);
const require = createRequire(modules + "/");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const pictures = path.join(path.dirname(modules), "screenshots");
const here = path.dirname(fileURLToPath(import.meta.url));

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
const DESK = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };
const PATIENCE = 60000;

// The rig: one line to it, one line back.

const rig = spawn(path.join(here, "serve.py"), [], { stdio: ["pipe", "pipe", "inherit"] });
const lines = readline.createInterface({ input: rig.stdout })[Symbol.asyncIterator]();
const answer = async () => JSON.parse((await lines.next()).value);
async function tell(word) {
  rig.stdin.write(word + "\n");
  return answer();
}

const { url } = await answer();
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium-headless-shell",
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

// A page whose console must stay empty, and that asks nobody else.

async function open(where, options = {}) {
  const context = await browser.newContext({
    viewport: DESK, locale: "en-GB", timezoneId: "Europe/Berlin", bypassCSP: false, ...options,
  });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: url });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") page.complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) page.complaints.push(`asked ${request.url()}`);
  });
  await page.goto(url + where);
  return page;
}

async function close(page) {
  assert.deepEqual(page.complaints, []);
  await page.context().close();
}

async function picture(page, name, fullPage = false) {
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: path.join(pictures, name + ".png"), fullPage });
}

// No rule of WCAG 2.1 AA is violated.  The checker is no part of the page, whose
// policy would not let it in.

async function accessible(where, options) {
  const page = await open(where, { ...options, bypassCSP: true });
  await page.waitForTimeout(300);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(
    (values) => window.axe.run({ runOnly: { type: "tag", values } }), RULES);
  const found = violations.map((each) => `${each.id}: ${each.nodes.map((n) => n.target).join(", ")}`);
  assert.deepEqual(found, [], `${where} ${JSON.stringify(options)}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `${where} is ${wide} px too wide`);
  await page.context().close();
}

const rows = (page) => page.locator(".list tbody tr");
const detail = "/deliveries/29/service-desk-8";

const tests = {
  async "search finds a ticket id, a case, a part of it"() {
    const page = await open("/deliveries");
    const ticket = await rows(page).locator(".ticket code").first().textContent();
    await page.keyboard.press("/");
    await page.keyboard.type(ticket);
    await page.keyboard.press("Enter");
    await page.waitForURL(/search=/);
    assert.equal(await rows(page).locator(`.ticket code:text-is("${ticket}")`).count(), 1);

    await page.fill("#search", "2026-1008");
    await page.keyboard.press("Enter");
    await page.waitForURL(/1008/);
    assert.equal(await rows(page).count(), 2);
    await page.fill("#search", "nowhere to be found");
    await page.keyboard.press("Enter");
    await page.getByText("No delivery is like that.").waitFor();
    await close(page);
  },

  async "filters make an address that says it all"() {
    const page = await open("/deliveries");
    await picture(page, "list");
    await page.selectOption("[name=output]", "29");
    await page.waitForURL(/output=29/);
    await page.getByRole("link", { name: /^Failed/ }).click();
    await page.waitForURL(/state=failed/);
    assert.equal(new URL(page.url()).search, "?output=29&state=failed");
    assert.equal(await rows(page).count(), 10);
    assert.equal(await rows(page).locator(".state.bad").count(), 10);

    const colleague = await open(new URL(page.url()).pathname + new URL(page.url()).search);
    assert.equal(await rows(colleague).count(), 10);
    await close(colleague);
    await page.check("[name=without_ticket]");
    await page.waitForURL(/without_ticket=true/);
    await close(page);
  },

  async "a click on its head sorts a column, and filters leave it so"() {
    const page = await open("/deliveries");
    const head = (name) => page.getByRole("columnheader", { name, exact: true });
    assert.equal(await head("Time").getAttribute("aria-sort"), "descending");
    for (const [order, sort] of [["ascending", "sort=case"], ["descending", "sort=-case"]]) {
      await head("Case").getByRole("link").click();
      await page.waitForURL(url + "/deliveries?" + sort);
      assert.equal(await head("Case").getAttribute("aria-sort"), order);
      assert.equal(await head("Time").getAttribute("aria-sort"), null);
      const cases = (await rows(page).locator(".case").allInnerTexts()).map((each) => each.trim());
      const sorted = [...cases].sort();
      assert.deepEqual(cases, order === "ascending" ? sorted : sorted.reverse());
    }
    await picture(page, "list-sorted");
    await page.getByRole("link", { name: "Next →" }).click();
    await page.waitForURL(/cursor=/);
    await page.getByRole("link", { name: "← Back" }).click();
    await page.waitForURL(/before=/);
    await page.selectOption("[name=output]", "29");
    await page.waitForURL(url + "/deliveries?output=29&sort=-case");
    await page.getByRole("link", { name: /^Failed/ }).click();
    await page.waitForURL(/state=failed/);
    assert.equal(await head("Case").getAttribute("aria-sort"), "descending");

    await head("Attempts").getByRole("link").focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/sort=-attempts/);
    await close(page);

    const phone = await open("/deliveries", { viewport: PHONE });
    await phone.selectOption("[name=sort]", { label: "Ticket ID, ascending" });
    await phone.waitForURL(/sort=ticket_id/);
    assert.equal(await phone.locator("select[name=sort]").inputValue(), "ticket_id");
    await close(phone);
  },

  async "older ones and back again"() {
    const page = await open("/deliveries");
    const first = await rows(page).locator(".case").first().innerText();
    await page.getByRole("link", { name: "Older →" }).click();
    await page.waitForURL(/cursor=/);
    assert.notEqual(await rows(page).locator(".case").first().innerText(), first);
    await page.getByRole("link", { name: "← Newer" }).click();
    await page.waitForURL(/before=/);
    assert.equal(await rows(page).locator(".case").first().innerText(), first);
    await close(page);
  },

  async "a delivery tells all, and what is hostile is text"() {
    const page = await open(detail);
    await page.getByText("given up after 3 attempts").waitFor();
    assert.equal(await page.locator("section").first().locator("tbody tr").count(), 3);
    await page.getByText("Müller & Söhne GmbH").waitFor();
    await page.getByText("affected").click();
    await page.getByText("vpn-gateway-2").waitFor();
    await picture(page, "detail", true);
    await page.locator("[data-from]").click();
    await page.getByText("Copied").waitFor();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(JSON.parse(copied).customer.number, 40817);
    await close(page);

    const other = await open("/deliveries/29/hostile");
    await other.getByRole("heading", { name: "<img src=x onerror" }).waitFor();
    assert.notEqual(await other.title(), "1");
    await close(other);
  },

  async "a retry is seen being delivered, live"() {
    const page = await open("/deliveries/30/partner-1");
    await page.locator("#delivery .state.wait").first().waitFor();
    await page.getByText("Live", { exact: true }).waitFor();
    await tell("heal");
    await page.getByRole("button", { name: "Retry", exact: true }).click();
    await page.getByRole("heading", { name: "Retry 1 delivery?" }).waitFor();
    await page.getByRole("button", { name: "Retry now" }).click();
    await page.waitForURL(/partner-1\?done=/);
    await page.locator(".sub .state.ok").waitFor();
    await page.getByText("Nothing: it was delivered.").waitFor();
    assert.match(await page.locator(".sub code").textContent(), /^VD-/);
    await page.getByRole("heading", { name: "What operators did" }).waitFor();
    await close(page);
  },

  async "what is new comes by itself, also after a lost connection"() {
    const page = await open("/deliveries?output=28");
    await page.getByText("Live", { exact: true }).waitFor();
    const before = await page.locator(".tabs .n").first().textContent();
    await tell("deliver 2");
    await page.getByText("C-2026-2001").waitFor();
    assert.equal(+(await page.locator(".tabs .n").first().textContent()), +before + 2);

    await tell("stop");
    await page.getByText("Connection lost").waitFor();
    await tell("deliver 5");
    await tell("start");
    await page.getByText("C-2026-2004").waitFor();
    await page.getByText("Live", { exact: true }).waitFor();

    await page.locator("#live").click();
    await page.getByText("Paused").waitFor();
    await page.context().close();
  },

  async "a list that is open says that the store is away, and goes on with it"() {
    const page = await open("/deliveries?output=28");
    await page.getByText("Live", { exact: true }).waitFor();
    await tell("away");
    const there = await page.getByText("C-2026-2000").count();
    await page.getByText("Not up to date: the store is away").waitFor();
    assert.equal(await page.locator("#live.away").count(), 1);
    await picture(page, "list-store-away");
    await tell("deliver 1");
    await tell("back");
    await page.getByText("Live", { exact: true }).waitFor();
    await page.getByText("C-2026-2000").nth(there).waitFor();
    page.complaints = page.complaints.filter((each) => !each.includes("503"));
    await close(page);
  },

  async "keys go down, select and open"() {
    const page = await open("/deliveries");
    for (const key of ["j", "j", "k", "x"]) await page.keyboard.press(key);
    assert.equal(await page.locator("[name=pick]:checked").count(), 1);
    assert.equal(await page.locator("#picked").textContent(), "1");
    await page.keyboard.press("Enter");
    await page.waitForURL(/deliveries\/\d+\//);
    await close(page);
  },

  async "in bulk: a preview says how many and which"() {
    const page = await open("/deliveries?output=29&state=failed");
    await page.locator("form.acts").last().getByRole("button", { name: "Cancel …" }).click();
    await page.getByRole("heading", { name: "Cancel 10 deliveries?" }).waitFor();
    assert.equal(await rows(page).count(), 10);
    await picture(page, "bulk");
    await page.getByRole("button", { name: "Cancel them" }).click();
    await page.getByRole("heading", { name: "10 deliveries were cancelled" }).waitFor();
    await close(page);

    const list = await open("/deliveries?output=29&state=cancelled");
    assert.equal(await rows(list).count(), 10);
    await rows(list).nth(0).locator("[name=pick]").check();
    await rows(list).nth(3).locator("[name=pick]").check();
    await list.locator("#acts").getByRole("button", { name: "Retry" }).click();
    await list.getByRole("heading", { name: "Retry 2 deliveries?" }).waitFor();
    await close(list);
  },

  async "all of it without JavaScript"() {
    const page = await open("/deliveries", { javaScriptEnabled: false });
    await page.getByRole("columnheader", { name: "Output" }).getByRole("link").click();
    await page.waitForURL(/sort=output$/);
    await page.fill("#search", "partner-2");
    await page.getByRole("button", { name: "Apply" }).click();
    await page.waitForURL(/search=partner-2&sort=output$/);
    await rows(page).locator("a").first().click();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Cancel them" }).click();
    await page.getByText("1 delivery was cancelled.").waitFor();
    assert.equal(await page.locator(".copy:visible, #live:visible").count(), 0);
    await close(page);
  },

  async "times are the viewer's, and UTC is there too"() {
    const page = await open("/deliveries", { timezoneId: "Asia/Kolkata" });
    await page.getByText("Times are in Asia/").waitFor();
    const time = rows(page).first().locator("time");
    const [shown, stamp] = [await time.textContent(), await time.getAttribute("datetime")];
    const there = Date.parse(stamp) + 5.5 * 3600e3;
    assert.equal(shown, new Date(there).toISOString().slice(0, 19).replace("T", " "));
    assert.match(await time.getAttribute("title"), / UTC$/);
    await close(page);
  },

  async "in German"() {
    const page = await open("/deliveries", { locale: "de-DE" });
    await page.getByRole("heading", { name: "Zustellungen" }).waitFor();
    assert.equal(await page.locator("html").getAttribute("lang"), "de");
    await page.goto(url + detail);
    await page.getByText("Wie es weitergeht").waitFor();
    await picture(page, "detail-german", true);
    await close(page);
  },

  async "pictures of the rest"() {
    for (const [name, where, options] of [
      ["overview", "/", {}],
      ["overview-dark", "/", { colorScheme: "dark" }],
      ["list-dark", "/deliveries", { colorScheme: "dark" }],
      ["list-phone", "/deliveries", { viewport: PHONE, locale: "de-DE" }],
      ["detail-phone", detail, { viewport: PHONE, colorScheme: "dark" }],
      ["overview-phone", "/", { viewport: PHONE }],
    ]) {
      const page = await open(where, options);
      await page.waitForTimeout(500);
      await picture(page, name);
      await close(page);
    }
  },

  async "no barrier on any page, light, dark, narrow, in both languages"() {
    for (const where of [
      "/", "/?range=week", "/deliveries", "/deliveries?search=zz&since=24h", "/deliveries?sort=-attempts", detail,
      "/deliveries/29/hostile", "/act?act=retry&state=failed", "/act?act=forget", "/deliveries/28/none",
    ]) {
      await accessible(where, {});
      await accessible(where, { colorScheme: "dark", viewport: PHONE, locale: "de-DE" });
    }
  },
};

let failed = 0;
const only = process.argv[3];
for (const [name, test] of Object.entries(tests)) {
  if (only && !name.includes(only)) continue;
  const began = Date.now();
  try {
    await test();
    console.log(`ok     ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
await browser.close();
rig.stdin.end();
await new Promise((resolve) => rig.on("exit", resolve));
process.exit(failed ? 1 : 0);

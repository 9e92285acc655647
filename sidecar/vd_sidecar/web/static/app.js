// Copyright (C) The ngx_vd_module authors
// What pages do beyond reading and acting, which work without it: they stay up to
// date, copy, and listen to keys.
"use strict";

const $ = (query, within = document) => within.querySelector(query);
const $$ = (query, within = document) => [...within.querySelectorAll(query)];

// The zone of whoever looks, for the server, which writes the times.

function tellZone() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  if (zone === document.body.dataset.zone) return false;
  document.cookie = `tz=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
  return document.cookie.includes("tz=") && zone !== "UTC";
}

// Fetches the page once more and replaces what may have changed in it.

let busy = false;
let again = false;

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch (error) {
    // the stream tells whether the server is there
  }
  busy = false;
  if (again) {
    again = false;
    refresh();
  }
}

function replace(fresh) {
  const picked = new Set($$("[name=pick]:checked").map((box) => box.value));
  const at = $("tr.at a")?.href;
  const focus = document.activeElement;
  const name = focus?.value && focus.name ? `[name="${focus.name}"][value="${CSS.escape(focus.value)}"]` : null;
  const link = focus?.href;
  for (const old of $$("[data-live]")) {
    const found = fresh.getElementById(old.id);
    if (!found || found.innerHTML === old.innerHTML) continue;
    const scrolled = $$(".scroll", old).map((each) => each.scrollLeft);
    old.replaceChildren(...found.childNodes);
    $$(".scroll", old).forEach((each, index) => (each.scrollLeft = scrolled[index] || 0));
    if (!old.contains(focus) && document.activeElement === document.body) {
      const same = name ? $(name, old) : $$("a", old).find((each) => link && each.href === link);
      same?.focus({ preventScroll: true });
    }
  }
  for (const box of $$("[name=pick]")) box.checked = picked.has(box.value);
  for (const row of $$(".list tbody tr")) row.classList.toggle("at", !!at && $("a", row)?.href === at);
  document.title = fresh.title;
  prepare();
}

function prepare() {
  for (const button of $$(".copy")) button.hidden = false;
  const all = $("#all");
  if (all) all.hidden = false;
  count();
}

// Live: told by the server that something changed; the first word after a lost
// connection is always that.

const live = $("#live");
let source = null;
let waiting = null;

function show(kind) {
  live.hidden = false;
  live.className = `live ${kind}`;
  $(".word", live).textContent = live.dataset[kind];
  live.title = kind === "off" ? live.dataset.go : live.dataset.pause;
}

function listen() {
  source = new EventSource(document.body.dataset.base + "/events");
  source.addEventListener("away", () => show("away"));
  source.addEventListener("change", () => {
    show("on");
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 150);
  });
  source.addEventListener("error", () => {
    show("lost");
    if (source.readyState === EventSource.CLOSED) {
      source = null;
      setTimeout(() => source || live.classList.contains("off") || listen(), 3000);
    }
  });
}

function toggle() {
  if (live.classList.contains("off")) {
    listen();
    return;
  }
  source?.close();
  source = null;
  show("off");
}

// Copying: a text that the page holds, or one that it asks for.

async function copy(button) {
  const word = button.textContent;
  const from = button.dataset.from;
  const text = from ? await (await fetch(from)).text() : button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = button.dataset.copied;
  setTimeout(() => (button.textContent = word), 1500);
}

function count() {
  const number = $$("[name=pick]:checked").length;
  const told = $("#picked");
  if (told) told.textContent = number || "";
}

// Keys, as most lists have them.

function move(step) {
  const rows = $$(".list tbody tr");
  const now = rows.findIndex((row) => row.classList.contains("at"));
  const next = rows[Math.max(0, Math.min(rows.length - 1, now + step))];
  if (!next) return;
  rows[now]?.classList.remove("at");
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const at = $("tr.at");
  if (event.key === "/" && $("#search")) $("#search").select();
  else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "x" && at) $("[name=pick]", at)?.click();
  else if (event.key === "Enter" && at && !event.target.closest("a, button, summary, input")) $("a", at).click();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", key);
document.addEventListener("click", (event) => {
  const button = event.target.closest(".copy");
  if (button) copy(button);
});
document.addEventListener("change", (event) => {
  if (event.target.id === "all") for (const box of $$("[name=pick]")) box.checked = event.target.checked;
  if (event.target.closest(".list")) count();
  if (event.target.matches(".filters select, .filters [type=checkbox]")) event.target.form.requestSubmit();
});

prepare();
if ($("[data-live]")) {
  live.addEventListener("click", toggle);
  listen();
}
if (tellZone()) refresh();

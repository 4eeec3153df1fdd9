"use strict";

// Fetches the page again every few seconds and puts the parts that have changed in their places: so a picture is
// loaded anew only when it is another, and what one has scrolled or marked stays.

const EVERY_MS = 4000;
const PATIENCE_MS = 15000;

const parts = (page) => [...page.querySelectorAll("[data-live]")];
const shape = (page) => parts(page).map((part) => part.id).join();

let tag = "";
let known = new Map(parts(document).map((part) => [part.id, part.outerHTML]));

async function renew() {
  const headers = tag ? { "If-None-Match": tag } : {};
  const answer = await fetch("/", { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 304) return;
  if (!answer.ok) throw new Error(answer.status);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (shape(fresh) !== shape(document)) return location.reload();
  for (const part of parts(fresh)) {
    const text = part.outerHTML;
    if (known.get(part.id) !== text) {
      known.set(part.id, text);
      document.getElementById(part.id).replaceWith(part);
    }
  }
  document.title = fresh.title;
  tag = answer.headers.get("ETag") || "";
}

function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function tell() {
  for (const time of document.querySelectorAll("time")) {
    const text = age((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

async function loop() {
  if (!document.hidden) {
    const silence = document.getElementById("silence");
    try {
      await renew();
      silence.hidden = true;
    } catch {
      silence.hidden = false;
    }
  }
  setTimeout(loop, EVERY_MS);
}

tell();
setInterval(tell, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) renew().then(tell, () => {}); });
setTimeout(loop, EVERY_MS);

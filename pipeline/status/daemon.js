"use strict";

// Fetches the page again every other second and changes what is another, in place, so that what one has scrolled, marked
// or opened stays. Pictures of frames that are being made are fetched each second while they can be seen.

const EVERY_MS = 2000;
const PATIENCE_MS = 15000;
const PICTURE_MS = 1000;

let tag = "";
let silent = false;

async function renew() {
  const headers = tag ? { "If-None-Match": tag } : {};
  const options = { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
  const answer = await fetch(location.pathname + location.search, options);
  if (answer.status === 304) return;
  if (!answer.ok) throw new Error(answer.status);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [before, after] = [document, fresh].map((page) => page.getElementById("live"));
  if (!before || !after) return location.reload();
  become(before, after);
  document.title = fresh.title;
  tag = answer.headers.get("ETag") || "";
  tell();
}

// Makes an element what another one is. Children with an id are found again by it; "data-own" is ours alone.
function become(old, fresh) {
  if (old.hasAttribute("data-own")) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const found = wanted.id ? known.get(wanted.id) : at && !at.id && at.nodeName === wanted.nodeName ? at : null;
    if (!found) {
      old.insertBefore(wanted, at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else old.insertBefore(found, at);
    if (found.nodeType === Node.ELEMENT_NODE) become(found, wanted);
    else if (found.data !== wanted.data) found.data = wanted.data;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
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

function say(sentence) {
  const silence = document.getElementById("silence");
  silence.textContent = sentence;
  silence.hidden = !sentence;
}

async function loop() {
  if (!document.hidden) {
    try {
      await renew();
      if (silent) say("");
      silent = false;
    } catch {
      silent = true;
      say("The page does not answer; what is shown is old.");
    }
  }
  setTimeout(loop, EVERY_MS);
}

function isSeen(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

function picture(image) {
  const next = new Image();
  next.alt = image.alt;
  next.dataset.renewed = "";
  next.onload = () => {
    image.parentElement?.classList.remove("missing");
    image.replaceWith(next);
  };
  next.onerror = () => image.naturalWidth || image.parentElement?.classList.add("missing");
  next.src = `${new URL(image.src).pathname}?${Date.now()}`;
}

function pictures() {
  if (document.hidden) return;
  for (const image of document.querySelectorAll("img[data-renewed]")) if (isSeen(image.parentElement)) picture(image);
}

async function act(form, button) {
  const body = JSON.stringify(Object.fromEntries(new FormData(form)));
  const headers = { "Content-Type": "application/json" };
  button.disabled = true;
  try {
    const answer = await fetch(form.action, { method: "POST", headers, body, signal: AbortSignal.timeout(PATIENCE_MS) });
    say(answer.ok ? "" : (await answer.json()).error);
    if (document.querySelector("[data-live]")) await renew();
    else if (answer.ok) location.reload();
  } catch {
    say("The page does not answer; nothing was done.");
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  const button = form.querySelector("button");
  if (!button.dataset.ask || confirm(button.dataset.ask)) act(form, button);
});

tell();
setInterval(tell, 1000);
if (document.querySelector("[data-live]")) {
  document.addEventListener("visibilitychange", () => { if (!document.hidden) renew().catch(() => {}); });
  setTimeout(loop, EVERY_MS);
  pictures();
  setInterval(pictures, PICTURE_MS);
}

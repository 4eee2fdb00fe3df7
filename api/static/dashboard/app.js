"use strict";
/* What the pages can do beyond forms and links. Everything here is a convenience: without it, a page is loaded again.

   <body data-live="/events" data-poll="...">: one stream for the page. Its events become
     live:job       something has happened to a job  -> parts with hx-trigger="live:job from:body" are fetched anew
     live:poll      every two seconds, while there is no stream
   and `progress` events move the bars of their jobs; `log` events append to the log. */

(() => {
  const body = document.body;
  const POLL_MS = 2000;
  const GATHER_MS = 1200;

  /* Many things may happen at once: what they lead to is fetched once for all of them, and at last for the last one. */
  let told = 0, waiting = null;
  function tell(name) {
    if (!window.htmx) return;
    const wait = told + GATHER_MS - Date.now();
    if (wait <= 0) { told = Date.now(); htmx.trigger(body, name); return; }
    waiting ??= setTimeout(() => { waiting = null; told = Date.now(); htmx.trigger(body, name); }, wait);
  }

  /* Values as the server writes them: see words.py. */
  const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];
  function size(count) {
    let unit = 0;
    while (count >= 999.5 && unit < UNITS.length - 1) { count /= 1000; unit += 1; }
    return `${unit === 0 || count >= 99.95 ? count.toFixed(0) : count.toFixed(1)} ${UNITS[unit]}`;
  }
  function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const two = (n) => String(n).padStart(2, "0");
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole % 3600 / 60))} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
  }
  function ago(moment) {
    const seconds = (Date.now() - Date.parse(moment)) / 1000;
    const far = Math.abs(seconds);
    if (far < 5) return "now";
    const about = far >= 86400 ? `${Math.floor(far / 86400)} d` : far >= 3600 ? `${Math.floor(far / 3600)} h`
      : far >= 60 ? `${Math.floor(far / 60)} min` : `${Math.floor(far)} s`;
    return seconds < 0 ? `in ${about}` : `${about} ago`;
  }

  /* Times grow older while a page is open. */
  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const text = ago(time.dateTime);
      if (time.textContent !== text) time.textContent = text;
    }
  }, 10000);

  /* A job's numbers, wherever the page shows them: data-of="<job id>" data-what="percent|bytes|speed|eta|phase". */
  function show(job_id, progress) {
    for (const place of document.querySelectorAll(`[data-of="${CSS.escape(job_id)}"]`)) {
      const what = place.dataset.what;
      if (place instanceof HTMLProgressElement) {
        if (progress.percent === null) place.removeAttribute("value"); else place.value = progress.percent;
      } else if (what === "percent") place.textContent = progress.percent === null ? "" : `${Math.floor(progress.percent)} %`;
      else if (what === "bytes") {
        place.textContent = size(progress.bytes_done) + (progress.bytes_total === null ? "" : ` of ${size(progress.bytes_total)}`);
      } else if (what === "speed") place.textContent = progress.speed_bps ? `${size(progress.speed_bps)}/s` : "—";
      else if (what === "eta") place.textContent = progress.eta_s === null ? "—" : duration(progress.eta_s);
      else if (what === "phase") place.textContent = progress.phase;
    }
  }

  /* The log of the job page. */
  const log = document.querySelector("[data-log]");
  function append(line) {
    const template = document.getElementById("log-line");
    // What came by the stream before stands where it belongs only now.
    document.getElementById(`line-${line.id}`)?.remove();
    const row = template.content.firstElementChild.cloneNode(true);
    row.id = `line-${line.id}`;
    row.dataset.level = line.level;
    row.querySelector("time").dateTime = line.at;
    row.querySelector("time").textContent = new Date(line.at).toISOString().slice(11, 19);
    row.querySelector(".log-level").textContent = line.level;
    row.querySelector(".log-stage").textContent = line.stage ? line.stage + (line.attempt ? ` #${line.attempt}` : "") : "";
    row.querySelector(".log-text").textContent = line.message;
    const following = log.scrollTop + log.clientHeight >= log.scrollHeight - 24;
    log.append(row);
    document.getElementById("log-empty")?.remove();
    if (following) log.scrollTop = log.scrollHeight;
  }

  /* The stream tells what attempts say. What has happened to the job meanwhile is asked for, in its order. */
  let after = log && log.dataset.after, asking = false, again = false;
  async function catchUp() {
    if (!log) return;
    if (asking) { again = true; return; }
    asking = true;
    try {
      do {
        again = false;
        const answer = await fetch(`${log.dataset.log}?limit=1000${after ? `&after=${encodeURIComponent(after)}` : ""}`);
        if (!answer.ok) break;
        const page = await answer.json();
        page.lines.forEach(append);
        after = page.next_after ?? after;
        again ||= page.lines.length === 1000;
      } while (again);
    } catch { /* The service is away: the next event, or the next look, comes again. */ } finally { asking = false; }
  }
  function changed() { tell("live:job"); catchUp(); }

  /* The stream. While the page is hidden it is closed: a browser opens but six connections to a host. */
  let source = null, poll = null, over = false;
  const startPolling = () => { poll ??= setInterval(() => { if (!document.hidden) { tell("live:poll"); catchUp(); } }, POLL_MS); };
  const stopPolling = () => { clearInterval(poll); poll = null; };
  const read = (event) => { try { return JSON.parse(event.data); } catch { return null; } };
  function listen() {
    const address = body.dataset.live;
    if (!address || over || source) return;
    source = new EventSource(address);
    source.addEventListener("open", stopPolling);
    source.addEventListener("error", () => {
      startPolling();
      if (source && source.readyState === EventSource.CLOSED) { source.close(); source = null; }
    });
    source.addEventListener("snapshot", () => { stopPolling(); changed(); });
    source.addEventListener("job", changed);
    source.addEventListener("progress", (event) => { const told = read(event); if (told) show(told.job_id, told.progress); });
    source.addEventListener("log", (event) => { const line = read(event); if (line && log && !document.getElementById(`line-${line.id}`)) append(line); });
    source.addEventListener("end", () => { over = true; source.close(); source = null; stopPolling(); changed(); });
  }
  function pause() { if (source) { source.close(); source = null; } stopPolling(); }
  document.addEventListener("visibilitychange", () => { if (document.hidden) pause(); else listen(); });
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", (event) => { if (event.persisted) { listen(); changed(); } });
  listen();

  /* Copying, where the browser permits it. */
  function prepare(root) {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
    for (const part of root.querySelectorAll("[data-scripted]")) part.hidden = false;
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const whole = document.getElementById(button.dataset.copy);
    // Of the log, the lines that are shown.
    const lines = [...whole.querySelectorAll(".log-line")].filter((line) => line.offsetParent !== null);
    const words = (line) => [...line.children].map((cell) => cell.textContent).filter(Boolean).join(" ");
    const text = whole.matches(".log") ? lines.map(words).join("\n") : whole.textContent;
    await navigator.clipboard.writeText(text);
    button.classList.add("done");
    document.getElementById("told").textContent = "Copied";
    setTimeout(() => { button.classList.remove("done"); document.getElementById("told").textContent = ""; }, 1500);
  });

  /* A control that shows some lines of the log only: <select data-filter="log">. */
  const LEVELS = ["debug", "info", "warning", "error"];
  function filter() {
    const control = document.querySelector("[data-filter]");
    const lines = control && document.getElementById(control.dataset.filter);
    if (lines) lines.dataset.least = LEVELS.includes(control.value) ? control.value : "debug";
  }
  document.addEventListener("change", (event) => { if (event.target.matches("[data-filter]")) filter(); });

  /* One open menu or question at a time; Escape closes it. */
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = document.querySelector("details.confirm[open]");
    if (open) { open.open = false; open.querySelector("summary").focus(); }
  });

  /* On a phone the navigation scrolls: the place where one is shall be seen. */
  // Not by scrollIntoView: after it, the Tab key begins there, and passes over the link to the content.
  const here = document.querySelector("nav [aria-current]");
  const bar = here && here.closest("ul");
  if (bar) bar.scrollLeft = here.offsetLeft - (bar.clientWidth - here.offsetWidth) / 2;

  /* What has changed is said once, in few words, to those who do not see it: data-say="...". */
  let said = null;
  function say() {
    const words = [...document.querySelectorAll("[data-say]")].map((part) => part.dataset.say).join(". ");
    if (said !== null && words && words !== said) document.getElementById("told").textContent = words;
    said = words;
  }

  prepare(document);
  filter();
  say();
  document.addEventListener("htmx:load", (event) => {
    prepare(event.detail.elt);
    say();
    if (document.querySelector("[data-ended]")) { over = true; pause(); }
  });
})();

// What the pages do in the browser: live parts, acts, times, charts, the theme. Pages with more have a file of their own.
"use strict";
const penstock = (() => {
  const body = document.body;
  const root = body.dataset.root ?? "../";
  const byId = (id) => document.getElementById(id);

  // ---- calls of the API, with the session's credential ----
  async function call(method, path, value, options = {}) {
    const headers = { "X-Penstock-Console": "1", ...options.headers };
    let content = options.body;
    if (value !== undefined && value !== null) {
      headers["Content-Type"] = "application/json";
      content = JSON.stringify(value);
    }
    const answer = await fetch(`${root}console/api${path}`, { ...options, method, headers, body: content });
    if (answer.status === 401) location.reload();
    return answer;
  }

  async function problem(answer) {
    try {
      return (await answer.json()).error.message;
    } catch {
      return `the server answered ${answer.status}`;
    }
  }

  function toast(text, bad = false) {
    const note = document.createElement("div");
    note.className = bad ? "toast bad" : "toast";
    note.textContent = text;
    byId("toasts")?.append(note);
    setTimeout(() => note.remove(), bad ? 12000 : 5000);
  }

  function ask(text, verb = "Yes") {
    const dialog = byId("ask");
    byId("ask-text").textContent = text;
    byId("ask-yes").textContent = verb;
    dialog.returnValue = "no";
    dialog.showModal();
    return new Promise((resolve) =>
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
    );
  }

  function fields(form) {
    const given = [...new FormData(form)].filter(([, value]) => value !== "");
    return Object.fromEntries(given.map(([name, value]) => [name, form.elements[name].type === "number" ? Number(value) : value]));
  }

  // Of many that were retried: how many, and why the others were not.
  function summary(got) {
    if (got?.object !== "list" || got.data?.[0]?.retried_as === undefined) return null;
    const refused = got.data.filter((one) => one.error);
    const codes = [...new Set(refused.map((one) => one.error.code))].join(", ");
    const made = `${got.data.length - refused.length} retried`;
    return refused.length ? `${made}, ${refused.length} refused: ${codes}` : made;
  }

  // A button, or a form whose fields are the body.
  async function act(source, button = source) {
    const { act: what, confirm, done, then, body: value } = source.dataset;
    const given = source.tagName === "FORM" ? fields(source) : value && JSON.parse(value);
    if (confirm && !(await ask(confirm, button.textContent.trim()))) return;
    const space = what.indexOf(" ");
    button.disabled = true;
    button.ariaBusy = "true";
    try {
      const answer = await call(what.slice(0, space), what.slice(space + 1), given || null);
      if (!answer.ok) return toast(await problem(answer), true);
      const got = await answer.json().catch(() => null);
      source.dispatchEvent(new CustomEvent("console:done", { bubbles: true, detail: got }));
      if (then) return void (location.href = root + then.replace("{id}", encodeURIComponent(got?.id ?? "")));
      toast(summary(got) ?? done ?? "Done");
      refresh();
    } catch {
      toast("The server cannot be reached. Try again shortly.", true);
    } finally {
      button.disabled = false;
      button.ariaBusy = "false";
    }
  }

  // ---- times as people say them ----
  const STEPS = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"]];
  function ago(moment) {
    const seconds = Math.round((Date.now() - moment) / 1000);
    const far = Math.abs(seconds);
    const step = STEPS.find(([below]) => far < below);
    if (!step) return moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    if (far < 1) return "now";
    const amount = `${Math.floor(far / step[1])} ${step[2]}`;
    return seconds < 0 ? `in ${amount}` : `${amount} ago`;
  }
  function times() {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      const text = ago(moment);
      if (element.textContent !== text) element.textContent = text;
      if (!element.title) element.title = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    }
  }

  // ---- charts ----
  const hour = new Map(); // a pool's columns, shared by its charts
  const charts = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  async function columns(pool) {
    const known = hour.get(pool);
    const after = known?.at.at(-1) ?? 0;
    const answer = await fetch(`${root}console/series?pool=${encodeURIComponent(pool)}&after=${after}`);
    if (!answer.ok) return known ?? { at: [] };
    const fresh = await answer.json();
    if (!known) return hour.set(pool, fresh), fresh;
    const from = Date.now() / 1000 - 3600;
    const gone = known.at.filter((at) => at < from).length;
    for (const name of Object.keys(known)) known[name] = [...known[name], ...(fresh[name] ?? [])].slice(gone);
    return known;
  }

  function draw(figure, data) {
    const plot = figure.querySelector(".plot");
    const series = Object.entries(JSON.parse(figure.dataset.series)).filter(([name]) => data[name]);
    charts.get(figure)?.destroy();
    charts.delete(figure);
    plot.replaceChildren();
    if (data.at.length < 2) {
      const note = document.createElement("p");
      note.textContent = figure.dataset.empty ?? "The first points come within 20 seconds.";
      return plot.append(note);
    }
    const bars = figure.dataset.kind === "bars";
    const lines = series.map(([name, label], place) => ({
      label,
      stroke: colour(`--line-${(place % 4) + 1}`),
      fill: bars || series.length === 1 ? colour(`--line-${(place % 4) + 1}`) + (bars ? "cc" : "1f") : undefined,
      width: bars ? 0 : 1.75,
      points: { show: false },
      paths: bars ? uPlot.paths.bars({ size: [0.7, 48] }) : undefined,
      value: (_, value) => (value == null ? "" : value.toLocaleString()),
    }));
    const span = data.at.at(-1) - data.at[0];
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const options = {
      width: plot.clientWidth,
      height: 124,
      legend: { show: series.length > 1 },
      cursor: { points: { size: 6 }, y: false },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
      axes: [{ ...axis, space: 72, size: 30, values: clock(span) }, { ...axis, size: 44, space: 32, values: (_, ticks) => ticks.map((tick) => short(tick)) }],
      series: [{ label: "at", value: (_, at) => (at == null ? "" : new Date(at * 1000).toLocaleTimeString()) }, ...lines],
    };
    charts.set(figure, new uPlot(options, [data.at, ...series.map(([name]) => data[name])], plot));
  }
  const CLOCKS = [
    [600, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }],
    [2 * 86400, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }],
    [Infinity, { month: "short", day: "numeric" }],
  ];
  function clock(span) {
    const [, form] = CLOCKS.find(([below]) => span < below);
    return (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleString(undefined, form));
  }
  const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
  const short = (value) => compact.format(value);

  async function chart(figure) {
    const given = figure.dataset.points;
    draw(figure, given ? JSON.parse(given) : await columns(figure.dataset.pool));
  }
  async function drawCharts() {
    for (const figure of charts.keys()) if (!figure.isConnected) charts.delete(figure);
    const figures = [...document.querySelectorAll("[data-chart]")];
    const pools = new Set(figures.map((figure) => figure.dataset.pool).filter(Boolean));
    await Promise.all([...pools].map(columns));
    for (const figure of figures)
      draw(figure, figure.dataset.points ? JSON.parse(figure.dataset.points) : (hour.get(figure.dataset.pool) ?? { at: [] }));
  }
  function fit() {
    for (const [figure, one] of charts) {
      const width = figure.querySelector(".plot").clientWidth;
      if (width && width !== one.width) one.setSize({ width, height: 124 });
    }
  }

  // ---- live parts: one stream, closed while nobody looks ----
  let source = null;
  function pulse(state, text) {
    const sign = byId("pulse");
    if (!sign || sign.dataset.state === state) return;
    sign.dataset.state = state;
    sign.textContent = text;
  }
  async function swap(parts) {
    for (const [id, text] of Object.entries(parts)) {
      const target = byId(id);
      if (target) await htmx.swap({ target, text, swap: "innerMorph", sourceElement: target });
    }
    settle();
    document.dispatchEvent(new CustomEvent("console:live", { detail: Object.keys(parts) }));
  }
  function settle() {
    times();
    for (const figure of document.querySelectorAll("[data-chart]")) if (!charts.has(figure) && !figure.dataset.seen) {
      figure.dataset.seen = "1";
      chart(figure);
    }
  }
  function watch() {
    if (source || document.hidden || body.dataset.live !== "on") return;
    const page = encodeURIComponent(body.dataset.path + location.search);
    source = new EventSource(`${root}console/events?page=${page}`);
    source.onopen = () => pulse("on", "live");
    source.onerror = () => pulse("lost", "connection lost; trying again");
    source.addEventListener("parts", (event) => {
      const parts = JSON.parse(event.data);
      const works = Object.keys(parts).some((id) => id !== "live_status");
      if (works && body.dataset.failed !== undefined) return location.reload();
      swap(parts);
      if (works) pulse("on", "live");
    });
    source.addEventListener("samples", drawCharts);
    source.addEventListener("refused", (event) => {
      const { status, message } = JSON.parse(event.data);
      pulse("lost", message);
      if (status === 401) location.reload();
      if (status === 403 || status === 404) leave();
    });
  }
  function leave() {
    source?.close();
    source = null;
  }
  function refresh() {
    leave();
    watch();
  }

  // ---- the frame ----
  const THEMES = ["system", "light", "dark"];
  function theme() {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = THEMES[(THEMES.indexOf(now) + 1) % 3];
    const path = new URL(`${root}console`, location.href).pathname;
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    document.cookie = `penstock_theme=${next}; path=${path}; max-age=${next === "system" ? 0 : 31536000}; SameSite=Strict`;
    byId("theme-name").textContent = next;
    drawCharts();
  }
  function menu(open) {
    body.classList.toggle("menu", open);
    byId("menu").setAttribute("aria-expanded", String(open));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.act) act(button);
    if (button.id === "theme") theme();
    if (button.id === "menu") menu(!body.classList.contains("menu"));
    if (button.dataset.copy !== undefined)
      navigator.clipboard?.writeText(button.dataset.copy || byId(button.dataset.copyFrom).textContent).then(() => toast("Copied"));
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.dataset.act) return;
    event.preventDefault();
    act(event.target, event.submitter ?? event.target.querySelector("button"));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && body.classList.contains("menu")) menu(false);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      leave();
      pulse("off", "paused");
    } else {
      watch();
      drawCharts();
    }
  });
  document.addEventListener("htmx:after:swap", (event) => {
    if (event.detail?.ctx?.push || event.detail?.ctx?.replace) refresh();
    settle();
  });
  addEventListener("resize", fit);
  addEventListener("pagehide", leave);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  setInterval(() => document.hidden || times(), 1000);
  settle();
  watch();
  return { root, call, problem, toast, ask, times, chart, refresh };
})();

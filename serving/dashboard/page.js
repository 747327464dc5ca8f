// Asks for /dashboard/state once a second and draws it. What sessions are called comes from clients: it is only ever
// drawn or set as text, never parsed.
"use strict";

const PHASES = ["arriving", "prefilling", "waiting", "decoding"];
const EVERY_MS = 1000;
const byId = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const number = (value) => Math.round(value).toLocaleString("en");
let state = null;
let isPaused = false;
let places = []; // of the rows drawn: {top, bottom, row}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

function surface(id) {
  const canvas = byId(id);
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return { pen, width, height };
}

function niceTop(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * unit).find((top) => top >= most);
}

// Axes

function timeAxis(pen, left, right, top, bottom) {
  const window_s = state.window_s;
  const step = window_s <= 30 ? 5 : window_s <= 60 ? 10 : 60;
  pen.strokeStyle = color("line");
  pen.fillStyle = color("faint");
  pen.textAlign = "center";
  for (let ago = 0; ago <= window_s; ago += step) {
    const x = right - (ago / window_s) * (right - left);
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
    pen.fillText(ago === 0 ? "now" : `-${ago} s`, Math.min(Math.max(x, left + 16), right - 12), bottom + 13);
  }
}

function valueAxis(pen, left, right, top, bottom, most) {
  pen.strokeStyle = color("line");
  pen.fillStyle = color("faint");
  pen.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    const y = bottom - share * (bottom - top);
    pen.beginPath();
    pen.moveTo(left, y);
    pen.lineTo(right, y);
    pen.stroke();
    pen.fillText((most * share).toLocaleString("en", { maximumFractionDigits: 1 }), left - 5, y + 4);
  }
}

// Sessions

function drawSessions() {
  const { pen, width, height } = surface("sessions");
  const rows = state.sessions.rows;
  const left = 78, right = width - 8, top = 4, bottom = height - 18;
  timeAxis(pen, left, right, top, bottom);
  const from_s = state.now_s - state.window_s;
  const x = (at_s) => left + (Math.min(Math.max(at_s, from_s), state.now_s) - from_s) / state.window_s * (right - left);
  const pitch = Math.min(18, Math.max(3, (bottom - top) / Math.max(1, rows.length)));
  const thick = pitch >= 5 ? pitch - 1.5 : pitch - 0.6;
  const colors = PHASES.map(color);
  const fits = Math.floor((bottom - top) / pitch);
  places = [];
  rows.slice(0, fits).forEach((row, index) => {
    const y = top + index * pitch;
    const end_s = row.end_s === null ? state.now_s : row.end_s;
    row.bars.forEach(([code, start_s], at) => {
      const next_s = at + 1 < row.bars.length ? row.bars[at + 1][1] : end_s;
      pen.fillStyle = colors[code];
      pen.fillRect(x(start_s), y, Math.max(0.7, x(next_s) - x(start_s)), thick);
    });
    if (pitch >= 6) {
      pen.fillStyle = color("ink");
      for (const tick of row.ticks) pen.fillRect(x(tick) - 0.5, y, 1, thick);
    }
    if (row.reason && row.reason !== "stop" && row.reason !== "length") {
      pen.fillStyle = color("error");
      pen.fillRect(x(end_s), y, 3, thick);
    }
    if (pitch >= 11) {
      pen.fillStyle = color("faint");
      pen.textAlign = "right";
      pen.fillText(row.id, left - 6, y + thick / 2 + 4);
    }
    places.push({ top: y, bottom: y + pitch, row });
  });
  const { in_window } = state.sessions;
  byId("shown").textContent = places.length < in_window
    ? `drawn are the ${number(places.length)} that changed last, of ${number(in_window)} in this window`
    : `${number(in_window)} in this window`;
}

function about(row) {
  const end = row.end_s === null ? "open" : row.reason;
  const who = [row.tenant, row.id || "of another tenant"].filter(Boolean).join(" / ");
  const lasted_s = (row.end_s === null ? state.now_s : row.end_s) - row.open_s;
  return `${who}: ${end}, ${seconds(lasted_s)}, context ${number(row.context_tokens)} tokens, output ` +
    `${number(row.output_tokens)}, first token after ${seconds(row.ttft_s)}`;
}

// What changes over time

function drawStack(id, names, most) {
  const { pen, width, height } = surface(id);
  const { fields, samples } = state.history;
  const columns = names.map((name) => fields.indexOf(name));
  const sums = samples.map((sample) => columns.reduce((sum, column) => sum + sample[column], 0));
  const limit = most || niceTop(Math.max(0, ...sums));
  const left = 44, right = width - 8, top = 8, bottom = height - 18;
  const from_s = state.now_s - state.window_s;
  const x = (at_s) => left + Math.max(0, at_s - from_s) / state.window_s * (right - left);
  const y = (value) => bottom - Math.min(1, value / limit) * (bottom - top);
  const base = samples.map(() => 0);
  columns.forEach((column, at) => {
    pen.fillStyle = color(names[at]);
    pen.beginPath();
    samples.forEach((sample, index) => pen.lineTo(x(sample[0]), y(base[index] + sample[column])));
    for (let index = samples.length - 1; index >= 0; index--) pen.lineTo(x(samples[index][0]), y(base[index]));
    pen.fill();
    samples.forEach((sample, index) => { base[index] += sample[column]; });
  });
  valueAxis(pen, left, right, top, bottom, limit);
  timeAxis(pen, left, right, bottom, bottom);
}

function drawTokens() {
  const { pen, width, height } = surface("tokens");
  const { fields, samples } = state.history;
  const column = fields.indexOf("output_tokens");
  const rates = samples.slice(1).map((sample, index) => {
    const before = samples[index];
    return [sample[0], (sample[column] - before[column]) / (sample[0] - before[0])];
  });
  const limit = niceTop(Math.max(0, ...rates.map(([, rate]) => rate)));
  const left = 44, right = width - 8, top = 8, bottom = height - 18;
  const from_s = state.now_s - state.window_s;
  valueAxis(pen, left, right, top, bottom, limit);
  timeAxis(pen, left, right, bottom, bottom);
  pen.strokeStyle = color("bar");
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const [at_s, rate] of rates) {
    pen.lineTo(left + Math.max(0, at_s - from_s) / state.window_s * (right - left), bottom - rate / limit * (bottom - top));
  }
  pen.stroke();
  pen.lineWidth = 1;
  const last = rates.length ? rates[rates.length - 1][1] : 0;
  byId("rate").textContent = `${number(last)} now, ${number(state.totals.output_tokens)} since the start`;
}

// Distributions

function drawDistribution(id, one) {
  const { pen, width, height } = surface(id);
  const bounds = state.ttft.bounds_s;
  const left = 44, right = width - 8, top = 8, bottom = height - 18;
  const limit = niceTop(Math.max(...one.counts));
  valueAxis(pen, left, right, top, bottom, limit);
  const each = (right - left) / one.counts.length;
  pen.fillStyle = color("bar");
  one.counts.forEach((count, index) => {
    const tall = count / limit * (bottom - top);
    pen.fillRect(left + index * each + 1, bottom - tall, each - 2, tall);
  });
  pen.fillStyle = color("faint");
  pen.textAlign = "center";
  bounds.forEach((bound, index) => {
    if (index % 4 === 3) pen.fillText(seconds(bound), left + (index + 1) * each, bottom + 13);
  });
  const percentiles = `P50 ${seconds(one.p50)}, P95 ${seconds(one.p95)}, P99 ${seconds(one.p99)}`;
  byId(`ttft-${id}`).textContent = one.sessions ? `${percentiles} of the last ${number(one.sessions)}` : "none yet";
}

// The page

function legend(id, names) {
  byId(id).replaceChildren(...names.map((name) => {
    const item = document.createElement("li");
    const mark = document.createElement("i");
    mark.className = name;
    item.append(mark, name);
    return item;
  }));
}

function figures() {
  const { totals, phases, server } = state;
  byId("model").textContent = `${server.model}, policy ${server.policy}, version ${server.version}`;
  const parts = [
    ...PHASES.map((phase) => [phase, phases[phase]]), ["opened", totals.opened], ["refused", totals.refused],
    ["failed", totals.failed], ["preemptions", totals.preemptions],
  ];
  byId("figures").replaceChildren(...parts.flatMap(([name, value]) => {
    const strong = document.createElement("b");
    strong.textContent = number(value);
    return [`${name} `, strong, "   "];
  }));
  for (const tier of ["device", "host"]) {
    const one = state.memory[tier];
    const used = one.total - one.free;
    byId(tier).textContent = one.total ? `${number(used)} of ${number(one.total)} blocks` : "none";
  }
}

function draw() {
  if (state === null) return;
  figures();
  drawSessions();
  drawStack("load", PHASES, 0);
  drawStack("kv-device", ["held", "cached"], state.memory.device.total);
  drawStack("kv-host", ["swapped", "backups"], state.memory.host.total || 1);
  drawDistribution("final", state.ttft.final);
  drawDistribution("open", state.ttft.open);
  drawTokens();
  document.body.dataset.state = "drawn";
}

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = text === "";
}

async function ask() {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(`/dashboard/state?window_s=${byId("window").value}`, { headers });
  byId("door").hidden = answer.status !== 401;
  if (answer.status === 401) return trouble("");
  if (!answer.ok) return trouble(`the server answered ${answer.status}`);
  trouble("");
  state = await answer.json();
  draw();
}

async function turn() {
  if (!isPaused && !document.hidden) {
    try {
      await ask();
    } catch (error) {
      trouble(`the server does not answer: ${error.message}`);
    }
  }
  setTimeout(turn, EVERY_MS);
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
});
byId("window").addEventListener("change", () => ask().catch(() => {}));
byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value);
  byId("key").value = "";
  ask().catch(() => {});
});
byId("sessions").addEventListener("mousemove", (event) => {
  const place = places.find(({ top, bottom }) => event.offsetY >= top && event.offsetY < bottom);
  byId("about").textContent = place ? about(place.row) : "Point at a bar.";
});
window.addEventListener("resize", draw);
legend("phases", PHASES);
legend("device-legend", ["held", "cached"]);
legend("host-legend", ["swapped", "backups"]);
turn();

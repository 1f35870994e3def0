"use strict";
/* Pages by the address's hash: runs, one run, a comparison, a new run. */

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error || `the server answered ${response.status}`);
  return body;
}
const get = async (path) => answered(await fetch(path));
const post = async (path, body) => answered(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
const named = (path, name) => `${path}?name=${encodeURIComponent(name)}`;
const runLink = (name) => el("a", { href: `#/run/${encodeURIComponent(name)}` }, name);
const state = (run) => el("span", { class: `state ${run.state}` }, run.state);
let leave = () => {};

function tell(text) {
  const place = document.getElementById("status");
  place.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { place.textContent = ""; }, 6000);
}

function when(seconds) {
  return el("time", { datetime: new Date(seconds * 1000).toISOString() }, new Date(seconds * 1000).toLocaleString());
}

const MAIN = ["accuracy", "f1_macro", "f1", "spearman", "rougeL", "mrr", "ndcg", "perplexity", "loss"];
function mainScore(scores) {
  const split = scores.test && Object.keys(scores.test).length ? "test" : "dev";
  return Object.entries(scores[split] || {}).map(([task, metrics]) => {
    const metric = MAIN.find((name) => name in metrics) || Object.keys(metrics)[0];
    return `${task} ${metric} ${short(metrics[metric])}`;
  }).join(" · ");
}

async function runsPage(main) {
  const chosen = new Set();
  const compare = el("button", { type: "button", disabled: true, onclick: () => { location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join(",")}`; } }, "Compare");
  const body = el("tbody");
  const box = el("div");
  main.replaceChildren(el("h1", {}, "Runs"), box);
  let shown = "";
  const draw = async () => {
    const runs = await get("/api/runs");
    if (JSON.stringify(runs) === shown) return;
    shown = JSON.stringify(runs);
    if (!runs.length) {
      box.replaceChildren(el("p", {}, "No runs yet. ", el("a", { href: "#/new" }, "Start one"), ", or use the command line: ", el("code", {}, "hft run recipe.yaml --out NAME")));
      return;
    }
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
    body.replaceChildren(...runs.map((run) => {
      const tick = el("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, "data-key": `tick ${run.name}`, onchange: () => {
        if (tick.checked) chosen.add(run.name); else chosen.delete(run.name);
        compare.disabled = chosen.size < 2;
        compare.textContent = chosen.size ? `Compare ${chosen.size} runs` : "Compare";
      } });
      tick.checked = chosen.has(run.name);
      const link = runLink(run.name);
      link.dataset.key = `link ${run.name}`;
      const done = run.steps ? `${run.stage} ${run.step}/${run.steps}` : "starting";
      const said = run.state === "finished" ? mainScore(run.scores) : run.message || done;
      return el("tr", {}, el("td", {}, tick), el("th", { scope: "row" }, link, el("div", { class: "narrow" }, said)), el("td", {}, state(run)),
        el("td", { class: "wide" }, said), el("td", { class: "wide" }, when(run.updated)));
    }));
    if (!box.querySelector("table")) {
      box.replaceChildren(el("div", { class: "row" }, compare), el("div", { class: "scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "soft" }, "Select")), ...["Run", "State"].map((text) => el("th", { scope: "col" }, text)), ...["Scores, or how far it is", "Changed"].map((text) => el("th", { scope: "col", class: "wide" }, text)))), body)));
    }
    if (focused) { const again = [...body.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused); if (again) again.focus(); }
  };
  await draw();
  const timer = setInterval(() => draw().catch((error) => tell(error.message)), 2500);
  leave = () => clearInterval(timer);
}

function scoreTable(scores, whole) {
  const lines = Object.entries(scores).flatMap(([split, tasks]) => Object.entries(tasks).flatMap(([task, metrics]) =>
    Object.entries(metrics).filter(([metric]) => whole || metric === (MAIN.find((name) => name in metrics) || metric)).map(([metric, value]) => el("tr", {}, el("td", {}, split), el("td", {}, task), el("td", {}, metric), el("td", { class: "number" }, short(value))))));
  return lines.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["Split", "Task", "Metric"].map((text) => el("th", { scope: "col" }, text)), el("th", { scope: "col", class: "number" }, "Value"))), el("tbody", {}, lines))) : null;
}

/* Collects the lines of a log into series by stage and task. */
class Losses {
  constructor() { this.losses = new Map(); this.scores = new Map(); this.before = 0; this.stage = null; this.last = 0; }
  add(event) {
    if (event.event === "stage_started") { this.before += this.last; this.last = 0; }
    if (event.event === "step") {
      this.last = event.step;
      for (const [task, loss] of Object.entries(event.losses || {})) this.put(this.losses, task, this.before + event.step, loss);
    }
    if (event.event === "evaluation" && event.split !== "test") {
      for (const [task, metrics] of Object.entries(event.scores || {})) {
        const metric = MAIN.find((name) => name in metrics);
        if (metric) this.put(this.scores, `${task} ${metric}`, this.before + (event.step || this.last), metrics[metric]);
      }
    }
  }
  put(map, name, x, y) { if (!map.has(name)) map.set(name, []); map.get(name).push([x, y]); }
  series(map) { return [...map].map(([name, points]) => ({ name, points })); }
}

function followLog(name, add, ended) {
  const source = new EventSource(named("/api/log", name));
  source.addEventListener("log", (message) => { for (const event of JSON.parse(message.data)) add(event); });
  source.addEventListener("end", () => { source.close(); ended(); });
  return source;
}

async function runPage(main, name) {
  let run = await get(named("/api/run", name));
  const heading = el("h1", {}, name, " ", state(run));
  const note = el("p"), buttons = el("div", { class: "row" }), charts = el("div", { class: "charts" }), results = el("div"), text = el("div");
  main.replaceChildren(heading, note, buttons, charts, results, text);
  const losses = new Losses();
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    const drawn = [chart("Training loss", losses.series(losses.losses))];
    if (losses.scores.size) drawn.push(chart("Dev scores", losses.series(losses.scores)));
    charts.replaceChildren(...drawn);
  };
  const act = (label, path) => el("button", { type: "button", onclick: async (event) => {
    event.target.disabled = true;
    try { await post(path, { run: name }); tell(`${label}: ${name}`); setTimeout(() => show(), 600); } catch (error) { tell(error.message); event.target.disabled = false; }
  } }, label);
  const fill = () => {
    heading.replaceChildren(name, " ", state(run));
    note.textContent = run.state !== "running" ? run.message : run.steps ? `${run.stage}: step ${run.step} of ${run.steps}` : "Starting: the model is opened and the rows are read.";
    note.className = run.state === "dead" ? "bad" : "soft";
    buttons.replaceChildren(...[run.can_stop && act("Stop", "/api/stop"), run.can_resume && act("Resume", "/api/resume"),
      run.report && el("a", { href: named("/api/report", name), target: "_blank", rel: "noopener" }, "Report")].filter(Boolean));
    const table = scoreTable(run.scores, false);
    results.replaceChildren(...[table && el("h2", {}, "Scores"), table, table && el("details", {}, el("summary", {}, "All metrics"), scoreTable(run.scores, true)), run.state === "finished" && tryOut(name)].filter(Boolean));
    const parts = [["Recipe", run.recipe], ["Model card", run.card], ["Console", run.console]].filter(([, content]) => content);
    text.replaceChildren(...(run.warnings.length ? [el("h2", {}, "Warnings"), el("ul", {}, run.warnings.map((line) => el("li", {}, String(line))))] : []),
      ...parts.map(([label, content]) => el("details", { open: label === "Console" && run.state !== "finished" }, el("summary", {}, label), el("pre", { tabindex: "0" }, content))));
  };
  fill();
  draw();
  let source = null, timer = 0;
  const show = async () => { run = await get(named("/api/run", name)); fill(); if (run.state === "running" && !source) follow(); };
  const follow = () => {
    source = followLog(name, (event) => { losses.add(event); if (!drawing) drawing = setTimeout(draw, 200); }, () => { source = null; if (run.state === "running") setTimeout(() => show().catch(() => {}), 800); });
  };
  follow();
  timer = setInterval(() => { if (run.state === "running") show().catch((error) => tell(error.message)); }, 3000);
  leave = () => { if (source) source.close(); clearInterval(timer); };
}

function tryOut(name) {
  const box = el("div", {}, el("h2", {}, "Try it"));
  const open = el("button", { type: "button", onclick: async () => {
    open.disabled = true;
    open.textContent = "Opening…";
    try {
      const tasks = await get(named("/api/tasks", name));
      open.remove();
      box.append(askForm(name, tasks));
      box.querySelector("textarea").focus();
    } catch (error) { tell(error.message); open.disabled = false; open.textContent = "Open the model"; }
  } }, "Open the model");
  box.append(open);
  return box;
}

function askForm(name, tasks) {
  let task = tasks[0];
  const inputs = el("div"), out = el("div", { "aria-live": "polite" });
  const drawInputs = () => inputs.replaceChildren(...task.texts.map((column) => field(column, el("textarea", { rows: "3", required: true }))));
  const choose = pick(tasks.map((one) => one.name), task.name, (value) => { task = tasks.find((one) => one.name === value); drawInputs(); out.replaceChildren(); });
  drawInputs();
  const ask = async (path) => {
    const texts = [...inputs.querySelectorAll("textarea")].map((one) => one.value);
    out.replaceChildren(el("p", { class: "soft" }, "…"));
    try {
      const answer = await post(path, { run: name, task: task.name, texts });
      out.replaceChildren(answerBox(answer.answer), answer.words ? wordsBox(answer, texts) : "");
    } catch (error) { out.replaceChildren(el("p", { class: "bad" }, error.message)); }
  };
  return el("form", { onsubmit: (event) => { event.preventDefault(); ask("/api/predict"); } },
    field("Task", choose), inputs,
    el("div", { class: "row" }, el("button", { class: "main" }, "Predict"), el("button", { type: "button", onclick: () => ask("/api/explain") }, "Which words mattered?")), out);
}

function answerBox(answer) {
  const { probabilities, ...rest } = answer;
  const said = Object.entries(rest).map(([key, value]) => el("p", {}, `${key}: `, el("strong", {}, typeof value === "string" ? value : JSON.stringify(value))));
  if (!probabilities) return el("div", {}, said);
  const lines = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 20).map(([label, p]) =>
    el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, el("meter", { value: p, min: 0, max: 1, "aria-label": `probability of ${label}` })), el("td", { class: "number" }, p.toFixed(3))));
  return el("div", {}, said, el("table", {}, el("caption", {}, "Probabilities"), el("tbody", {}, lines)));
}

function wordsBox(answer, texts) {
  const largest = Math.max(1e-9, ...answer.words.map((word) => Math.abs(word.weight)));
  const paragraphs = texts.map((text, number) => {
    const parts = [];
    let at = 0;
    for (const word of answer.words.filter((one) => one.text === number)) {
      parts.push([...text].length ? text.slice(at, word.start) : "");
      const share = Math.abs(word.weight) / largest;
      const kind = share < 0.1 ? "" : word.weight > 0 ? " for" : " against";
      const shown = el("span", { class: `word${kind}`, title: `${word.weight >= 0 ? "−" : "+"}${Math.abs(word.weight).toFixed(3)} without it` }, word.word);
      if (share >= 0.5) shown.style.fontWeight = "700";
      parts.push(shown);
      at = word.start + word.word.length;
    }
    parts.push(text.slice(at));
    return el("p", { class: "words" }, parts);
  });
  const top = [...answer.words].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 8);
  return el("div", {}, el("h3", {}, `Words for “${answer.answer.label}”`),
    el("p", { class: "soft" }, "How much its probability falls (solid line) or rises (dashed) when the model reads the text without the word."),
    paragraphs, el("table", {}, el("caption", {}, "The words that matter most"), el("tbody", {}, top.map((word) =>
      el("tr", {}, el("th", { scope: "row" }, word.word), el("td", { class: "number" }, `${word.weight >= 0 ? "−" : "+"}${Math.abs(word.weight).toFixed(3)}`))))));
}

async function comparePage(main, names) {
  const runs = await Promise.all(names.map((name) => get(named("/api/run", name))));
  const keys = new Map();
  for (const run of runs) for (const [split, tasks] of Object.entries(run.scores)) for (const [task, metrics] of Object.entries(tasks)) for (const metric of Object.keys(metrics)) if (metric === (MAIN.find((one) => one in metrics) || metric)) keys.set(`${split} ${task} ${metric}`, [split, task, metric]);
  const charts = el("div", { class: "charts" });
  const lines = [...keys.values()].map(([split, task, metric]) => el("tr", {}, el("th", { scope: "row" }, `${split} · ${task} · ${metric}`), ...runs.map((run) => {
    const value = ((run.scores[split] || {})[task] || {})[metric];
    return el("td", { class: "number" }, short(value));
  })));
  main.replaceChildren(el("h1", {}, "Comparison"), el("div", { class: "scroll" }, el("table", {}, el("caption", {}, "One run each: a difference may be chance."),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Score"), ...runs.map((run) => el("th", { scope: "col", class: "number" }, runLink(run.name))))), el("tbody", {}, lines))), el("h2", {}, "Training loss"), charts);
  const collected = names.map(() => new Losses());
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    const tasks = [...new Set(collected.flatMap((one) => [...one.losses.keys()]))];
    charts.replaceChildren(...tasks.map((task) => chart(task, names.map((name, i) => ({ name, points: collected[i].losses.get(task) || [] })))));
  };
  const sources = names.map((name, i) => followLog(name, (event) => { collected[i].add(event); if (!drawing) drawing = setTimeout(draw, 200); }, () => {}));
  leave = () => sources.forEach((one) => one.close());
}

async function route() {
  leave();
  leave = () => {};
  const main = document.getElementById("main");
  const [page, rest] = location.hash.replace(/^#\/?/, "").split(/\/(.*)/s);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${page || "runs"}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  try {
    if (page === "run" && rest) await runPage(main, decodeURIComponent(rest));
    else if (page === "compare" && rest) await comparePage(main, rest.split(",").map(decodeURIComponent));
    else if (page === "new") await newPage(main);
    else await runsPage(main);
    const heading = main.querySelector("h1");
    document.title = heading ? `${heading.textContent} – hft` : "hft";
  } catch (error) {
    main.replaceChildren(el("h1", {}, "Something went wrong"), el("p", { class: "bad" }, error.message));
  }
}
window.addEventListener("hashchange", async () => { await route(); document.getElementById("main").focus(); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
route();

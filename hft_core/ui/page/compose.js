"use strict";
/* The page "New run": forms on one side; the command and the YAML that do the same on the other. */

const STAGE_SETTINGS = [
  ["max_steps", "number", "steps; instead of epochs"], ["epochs", "number", "passes over the data"],
  ["learning_rate", "number", "of the trunk; empty: the strategy's own"], ["per_device_train_batch_size", "number", "rows in a batch"],
];
let draft = null;
let known = null;

function emptyDraft() {
  return {
    name: "", backbone: { type: "", options: { model: "" } },
    tasks: [{ name: "topic", head: { type: "classification", options: {} }, data: "" }],
    stages: [{ name: "finetune", tasks: [], strategy: { type: "lora", options: {} }, combiner: { type: "", options: {} }, settings: {} }],
  };
}

let fieldCount = 0;
function field(label, control, meaning = "") {
  const id = `f${(fieldCount += 1)}`;
  control.id = id;
  const note = meaning ? el("small", { id: `${id}n` }, meaning) : null;
  if (note) control.setAttribute("aria-describedby", `${id}n`);
  return el("div", { class: "field" }, el("label", { for: id }, label), control, note);
}

function pick(choices, value, onchange, empty = null) {
  const control = el("select", { onchange: () => onchange(control.value) });
  if (empty !== null) control.append(el("option", { value: "" }, empty));
  for (const choice of choices) control.append(el("option", { value: choice, selected: choice === value }, choice));
  control.value = value || "";
  return control;
}

function write(value, oninput, more = {}) {
  const control = el("input", { type: "text", autocomplete: "off", spellcheck: "false", ...more, oninput: () => oninput(control.value) });
  control.value = value || "";
  return control;
}

function optionField(option, chosen) {
  const set = (value) => { if (value === "") delete chosen.options[option.name]; else chosen.options[option.name] = value; composed(); };
  const value = chosen.options[option.name];
  const empty = option.default === "" ? "default" : `default: ${option.default}`;
  let control;
  if (option.choices.length) control = pick(option.choices.map(String), value, set, empty);
  else if (option.kind === "boolean") control = pick(["true", "false"], value, set, empty);
  else control = write(value, set, { placeholder: option.default, inputmode: ["integer", "number"].includes(option.kind) ? "decimal" : "text" });
  return field(option.name + (option.required ? " (required)" : ""), control, option.meaning);
}

function plugin(seam, label, chosen, empty = null, left = []) {
  const box = el("div");
  const draw = () => {
    const found = known.plugins[seam].find((one) => one.name === chosen.type);
    const choose = pick(known.plugins[seam].map((one) => one.name), chosen.type, (value) => { chosen.type = value; chosen.options = {}; draw(); composed(); }, empty);
    const focused = box.contains(document.activeElement) && document.activeElement.tagName === "SELECT";
    const options = found ? found.options.filter((one) => !left.includes(one.name)) : [];
    box.replaceChildren(field(label, choose, found ? found.summary : ""),
      options.length ? el("details", {}, el("summary", {}, `Options of ${chosen.type}`), options.map((one) => optionField(one, chosen))) : "");
    if (focused) choose.focus();
  };
  draw();
  return box;
}

function taskForm(task, i) {
  return el("fieldset", {}, el("legend", {}, `Task ${i + 1}`),
    field("Name", write(task.name, (value) => { task.name = value; composed(); })),
    plugin("head", "Head", task.head),
    field("Data", write(task.data, (value) => { task.data = value; composed(); }, { list: "files" }), `a file below ${known.root}; columns are options of the head`),
    draft.tasks.length > 1 ? el("button", { type: "button", onclick: () => { draft.tasks.splice(i, 1); drawForms(); } }, `Remove task ${i + 1}`) : null);
}

function stageForm(stage, i) {
  return el("fieldset", {}, el("legend", {}, `Stage ${i + 1}`),
    field("Name", write(stage.name, (value) => { stage.name = value; composed(); })),
    field("Tasks", write(stage.tasks.join(", "), (value) => { stage.tasks = value.split(",").map((t) => t.trim()).filter(Boolean); composed(); }), "names with commas; empty: all"),
    plugin("strategy", "Strategy", stage.strategy), plugin("combiner", "Combiner", stage.combiner, "none: the losses are added"),
    STAGE_SETTINGS.map(([name, , meaning]) => field(name, write(stage.settings[name], (value) => { if (value === "") delete stage.settings[name]; else stage.settings[name] = value; composed(); }, { inputmode: "decimal" }), meaning)),
    draft.stages.length > 1 ? el("button", { type: "button", onclick: () => { draft.stages.splice(i, 1); drawForms(); } }, `Remove stage ${i + 1}`) : null);
}

function drawForms() {
  const forms = document.getElementById("forms");
  if (!forms) return;
  forms.replaceChildren(
    el("fieldset", {}, el("legend", {}, "Run"), field("Name of the run", write(draft.name, (value) => { draft.name = value; composed(); }, { required: true }), `its folder below ${known.root}`)),
    el("fieldset", {}, el("legend", {}, "Backbone"),
      field("Model", write(draft.backbone.options.model, (value) => { draft.backbone.options.model = value; composed(); }), "a folder, or the name of a model of the hub"),
      plugin("backbone", "Type", draft.backbone, "chosen by the model", ["model"])),
    ...draft.tasks.map(taskForm),
    el("button", { type: "button", onclick: () => { draft.tasks.push({ name: `task${draft.tasks.length + 1}`, head: { type: "classification", options: {} }, data: "" }); drawForms(); } }, "Add a task"),
    el("h2", {}, "Stages"),
    ...draft.stages.map(stageForm),
    el("button", { type: "button", onclick: () => { draft.stages.push({ name: `stage${draft.stages.length + 1}`, tasks: [], strategy: { type: "full", options: {} }, combiner: { type: "", options: {} }, settings: {} }); drawForms(); } }, "Add a stage"),
    el("datalist", { id: "files" }, known.files.map((path) => el("option", { value: path }))));
  composed();
}

let waiting = 0, asked = 0;
function soon(work) { clearTimeout(waiting); waiting = setTimeout(work, 250); }
function composed() {
  soon(async () => {
    const number = (asked += 1);
    const answer = await post("/api/compose", draft).catch((error) => ({ error: error.message }));
    const area = document.getElementById("yaml");
    if (number !== asked || !area) return;
    if (answer.yaml !== undefined) area.value = answer.yaml;
    said(answer);
  });
}
function edited() {
  soon(async () => {
    const number = (asked += 1);
    const answer = await post("/api/validate", { name: draft.name, yaml: document.getElementById("yaml").value }).catch((error) => ({ error: error.message }));
    if (number === asked) said(answer);
  });
}
function said(answer) {
  const place = document.getElementById("check"), begin = document.getElementById("start");
  if (!place) return;
  place.textContent = answer.error || "Recipe, plugins and options are valid.";
  place.className = answer.error ? "bad" : "good";
  begin.disabled = Boolean(answer.error) || !draft.name;
  if (answer.command) document.getElementById("command").textContent = answer.command;
}

async function newPage(main) {
  known = known || (await get("/api/plugins"));
  draft = draft || emptyDraft();
  const area = el("textarea", { id: "yaml", class: "code", rows: "22", spellcheck: "false", oninput: edited, "aria-describedby": "check" });
  const begin = el("button", { id: "start", class: "main", type: "button", disabled: true, onclick: async () => {
    begin.disabled = true;
    try {
      const answer = await post("/api/start", { name: draft.name, yaml: area.value });
      draft = null; known = null;
      location.hash = `#/run/${encodeURIComponent(answer.run)}`;
    } catch (error) { said({ error: error.message }); }
  } }, "Start the run");
  main.replaceChildren(el("h1", {}, "New run"), el("div", { class: "split" },
    el("form", { id: "forms", onsubmit: (event) => event.preventDefault(), "aria-label": "Recipe" }),
    el("aside", { "aria-label": "The same as a command and as YAML" },
      el("h3", {}, "The same as a command"), el("pre", { id: "command", tabindex: "0" }),
      el("label", { for: "yaml" }, el("strong", {}, "The same as YAML")), area,
      el("p", { id: "check", role: "status" }, "…"), begin,
      el("p", { class: "soft" }, "Changes in the YAML are checked and started as written; a change in the forms writes it again."))));
  drawForms();
}

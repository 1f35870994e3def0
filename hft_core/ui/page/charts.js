"use strict";
/* Line charts as SVG, and the small functions that build elements. Text is only ever set as text. */

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function short(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 100000) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/* series: [{name, points: [[x, y], …]}] */
function chart(title, series, xName = "step") {
  const width = 420, height = 220, left = 48, right = 10, top = 10, bottom = 28;
  const drawn = series.map((one) => ({ ...one, points: one.points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y)) }));
  const all = drawn.flatMap((one) => one.points);
  const caption = el("figcaption", {}, title);
  if (!all.length) return el("figure", {}, caption, el("p", { class: "soft" }, "Nothing yet."));
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of all) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
  if (x0 === x1) x1 = x0 + 1;
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const place = ([x, y]) => [left + ((x - x0) / (x1 - x0)) * (width - left - right), top + (1 - (y - y0) / (y1 - y0)) * (height - top - bottom)];
  const last = drawn.filter((one) => one.points.length).map((one) => `${one.name}: ${short(one.points.at(-1)[1])}`).join(", ");
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} by ${xName}. Last values: ${last}` });
  for (const share of [0, 0.5, 1]) {
    const y = top + share * (height - top - bottom);
    const label = svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" });
    label.textContent = short(y1 - share * (y1 - y0));
    image.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y }), label);
  }
  for (const [x, anchor] of [[x0, "start"], [x1, "end"]]) {
    const label = svg("text", { x: place([x, y0])[0], y: height - 8, "text-anchor": anchor });
    label.textContent = `${xName} ${short(x)}`;
    image.append(label);
  }
  const dashes = ["", "6 3", "2 3", "8 3 2 3"];
  drawn.forEach((one, i) => {
    if (!one.points.length) return;
    const step = Math.max(1, Math.floor(one.points.length / 600));
    const kept = one.points.filter((_, j) => j % step === 0 || j === one.points.length - 1).map(place);
    const line = kept.map(([x, y], j) => `${j ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    if (kept.length === 1) image.append(svg("circle", { cx: kept[0][0], cy: kept[0][1], r: 3.5, class: `s${i % 6}` }));
    else image.append(svg("path", { d: line, class: `s${i % 6}`, "stroke-dasharray": dashes[Math.floor(i / 6) % 4] }));
  });
  const key = el("ul", { class: "key" }, drawn.map((one, i) =>
    el("li", {}, el("span", { class: `s${i % 6}`, "aria-hidden": "true" }, "— "), `${one.name} ${one.points.length ? short(one.points.at(-1)[1]) : "–"}`)));
  return el("figure", {}, caption, image, key);
}

"use strict";

// ---- The mathematics. The same equations as portable_bp.equations, for one example and plain lists. ----

const ACTIVATIONS = {
  sigmoid: { f: (z) => 1 / (1 + Math.exp(-z)), df: (z, a) => a * (1 - a) },
  tanh: { f: Math.tanh, df: (z, a) => 1 - a * a },
  relu: { f: (z) => Math.max(z, 0), df: (z) => (z > 0 ? 1 : 0) },
  identity: { f: (z) => z, df: () => 1 },
};

const LOSSES = {
  // The log loss from z, so that it does not overflow: max(z, 0) - z y + ln(1 + e^-|z|).
  log_loss: { value: (o, y, z) => Math.max(z, 0) - z * y + Math.log1p(Math.exp(-Math.abs(z))) },
  squared_error: { value: (o, y) => 0.5 * (o - y) ** 2, slope: (o, y) => o - y },
};

function activation(net, l) {
  return ACTIVATIONS[l === net.params.length - 1 ? net.output : net.hidden];
}

function forward(net) {
  const z = [], a = [net.x];
  net.params.forEach(({ W, b }, l) => {
    const before = a[l];
    z.push(b.map((bias, j) => before.reduce((sum, value, i) => sum + value * W[i][j], bias)));
    a.push(z[l].map(activation(net, l).f));
  });
  return { z, a };
}

function lossOf(net, { z, a } = forward(net)) {
  const last = z.length - 1;
  return net.y.reduce((sum, y, j) => sum + LOSSES[net.loss].value(a[last + 1][j], y, z[last][j]), 0);
}

function backward(net, { z, a }) {
  const L = net.params.length, deltas = new Array(L);
  for (let l = L - 1; l >= 0; l--) {
    const { df } = activation(net, l);
    deltas[l] = z[l].map((zj, j) => {
      const out = a[l + 1][j];
      if (l < L - 1) {
        const { W } = net.params[l + 1];
        return deltas[l + 1].reduce((sum, d, k) => sum + W[j][k] * d, 0) * df(zj, out);
      }
      if (net.loss === "log_loss") return out - net.y[j]; // sigmoid with log loss: the short form
      return LOSSES[net.loss].slope(out, net.y[j]) * df(zj, out);
    });
  }
  return deltas;
}

function compute(net) {
  const pass = forward(net), deltas = backward(net, pass);
  const gradients = deltas.map((delta, l) => ({
    W: pass.a[l].map((value) => delta.map((d) => value * d)),
    b: delta.slice(),
  }));
  const updated = net.params.map(({ W, b }, l) => ({
    W: W.map((row, i) => row.map((w, j) => w - net.rate * gradients[l].W[i][j])),
    b: b.map((w, j) => (net.biases ? w - net.rate * gradients[l].b[j] : w)),
  }));
  const after = { ...net, params: updated };
  return { ...pass, loss: lossOf(net, pass), deltas, gradients, updated, after: forward(after), lossAfter: lossOf(after) };
}

// Central differences of the loss for every weight and bias: knows nothing of the chain rule.
function differences(net) {
  const result = net.params.map(({ W, b }) => ({ W: W.map((row) => row.slice()), b: b.slice() }));
  const slope = (values, at) => {
    const kept = values[at], h = 1e-5 * Math.max(1, Math.abs(kept));
    values[at] = kept + h;
    const up = lossOf(net);
    values[at] = kept - h;
    const down = lossOf(net);
    values[at] = kept;
    return (up - down) / (2 * h);
  };
  net.params.forEach(({ W, b }, l) => {
    W.forEach((row, i) => row.forEach((_, j) => { result[l].W[i][j] = slope(row, j); }));
    b.forEach((_, j) => { result[l].b[j] = slope(b, j); });
  });
  return result;
}

function worstDifference(net, gradients) {
  const there = differences(net);
  let worst = 0, largest = 0;
  const look = (g, d) => {
    worst = Math.max(worst, Math.abs(g - d));
    largest = Math.max(largest, Math.abs(g));
  };
  gradients.forEach(({ W, b }, l) => {
    W.forEach((row, i) => row.forEach((g, j) => look(g, there[l].W[i][j])));
    b.forEach((g, j) => look(g, there[l].b[j]));
  });
  return { worst, largest };
}

// ---- What the reader has chosen, and how far the walk has come. ----

const examples = JSON.parse(document.getElementById("examples").textContent);
const $ = (id) => document.getElementById(id);
const HEADS = [
  ["log_loss", "sigmoid", "log loss (sigmoid output)"],
  ["squared_error", "sigmoid", "half squared error (sigmoid output)"],
  ["squared_error", "identity", "half squared error (linear output)"],
];
let net, stage = 0, steps = 0;

function clone(params) {
  return params.map(({ W, b }) => ({ W: W.map((row) => row.slice()), b: b.slice() }));
}

// Start weights of a network of your own: the same for everybody, uniform after Glorot's rule.
function ownNetwork(depth) {
  let seed = 7;
  const draw = () => ((seed = (seed * 48271) % 2147483647) / 2147483647) * 2 - 1;
  const sizes = [2, ...new Array(depth).fill(3), 1];
  const params = sizes.slice(1).map((n, l) => {
    const width = Math.sqrt(6 / (sizes[l] + n));
    return {
      W: Array.from({ length: sizes[l] }, () => Array.from({ length: n }, () => Math.round(1e3 * width * draw()) / 1e3)),
      b: new Array(n).fill(0),
    };
  });
  return { hidden: "sigmoid", output: "sigmoid", loss: "log_loss", params, x: [1, 0], y: [1], rate: 0.5 };
}

function load(source, biases) {
  net = { ...source, params: clone(source.params), x: source.x.slice(), y: source.y.slice(), biases };
  stage = steps = 0;
  $("depth").value = net.params.length - 1;
  $("hidden").value = net.hidden;
  $("loss").value = HEADS.findIndex(([loss, output]) => loss === net.loss && output === net.output);
  $("rate").value = net.rate;
  $("biases").checked = biases;
  const slider = (id, label, value, low, high) =>
    `<label>${label} <input id="${id}" type="range" min="${low}" max="${high}" step="0.01" value="${value}"><output for="${id}"></output></label>`;
  $("inputs").innerHTML =
    net.x.map((v, i) => slider(`x${i}`, `x${i + 1}`, v, -2, 2)).join("") +
    net.y.map((v, j) => slider(`y${j}`, net.y.length > 1 ? `y${j + 1}` : "target y", v, 0, 1)).join("");
  net.x.forEach((_, i) => $(`x${i}`).addEventListener("input", (e) => { net.x[i] = +e.target.value; draw(); }));
  net.y.forEach((_, j) => $(`y${j}`).addEventListener("input", (e) => { net.y[j] = +e.target.value; draw(); }));
  draw();
}

function reload() {
  const chosen = +$("preset").value;
  if (chosen < examples.length) load(examples[chosen], false);
  else load(ownNetwork(+$("depth").value), true);
}

function commit(count) {
  for (let i = 0; i < count; i++) net.params = compute(net).updated;
  steps += count;
  stage = 0;
}

// ---- The walk: forward by layer, loss, deltas by layer, gradients, update. ----

function stages() {
  const L = net.params.length, list = [{ kind: "start" }];
  for (let l = 0; l < L; l++) list.push({ kind: "forward", l });
  list.push({ kind: "loss" });
  for (let l = L - 1; l >= 0; l--) list.push({ kind: "delta", l });
  return [...list, { kind: "gradients" }, { kind: "update" }];
}

function fmt(v) {
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (!Number.isFinite(v)) return String(v);
  return (size < 1e-3 || size >= 1e4 ? v.toExponential(2).replace("e+", "e") : String(+v.toFixed(4))).replaceAll("-", "\u2212");
}

const slopeName = { sigmoid: "a(1 \u2212 a)", tanh: "1 \u2212 a\u00b2", relu: "1 if z > 0, else 0", identity: "1" };

function explain(now, c) {
  const L = net.params.length, last = L - 1, name = (l) => (l === last ? net.output : net.hidden);
  if (now.kind === "start") return ["The input", [`x = (${net.x.map(fmt).join(", ")}), target y = (${net.y.map(fmt).join(", ")}). Press Next.`]];
  if (now.kind === "forward") {
    const { l } = now, { W, b } = net.params[l];
    return [`Forward, layer ${l + 1}: z = a W + b, a = f(z) with f = ${name(l)}`, c.z[l].map((z, j) =>
      `z${j + 1} = ${c.a[l].map((v, i) => `${fmt(v)}\u00b7(${fmt(W[i][j])})`).join(" + ")} + ${fmt(b[j])} = ${fmt(z)},   a${j + 1} = f(${fmt(z)}) = ${fmt(c.a[l + 1][j])}`)];
  }
  if (now.kind === "loss") return [`The loss: ${net.loss === "log_loss" ? "\u2212y ln o \u2212 (1 \u2212 y) ln(1 \u2212 o)" : "\u00bd(o \u2212 y)\u00b2, summed"}`,
    [`o = (${c.a[L].map(fmt).join(", ")}), y = (${net.y.map(fmt).join(", ")}),   E = ${fmt(c.loss)}`]];
  if (now.kind === "delta") {
    const { l } = now;
    if (l === last) return ["Delta of the output layer: how the loss changes with z", c.deltas[l].map((d, j) =>
      net.loss === "log_loss" ? `\u03b4${j + 1} = o \u2212 y = ${fmt(c.a[L][j])} \u2212 ${fmt(net.y[j])} = ${fmt(d)}`
        : `\u03b4${j + 1} = (o \u2212 y)\u00b7f\u2032(z) = ${fmt(c.a[L][j] - net.y[j])}\u00b7${fmt(activation(net, l).df(c.z[l][j], c.a[L][j]))} = ${fmt(d)}`)];
    return [`Delta of layer ${l + 1}: (sum of w\u00b7\u03b4 of the next layer) \u00b7 f\u2032(z), with f\u2032 = ${slopeName[name(l)]}`, c.deltas[l].map((d, j) =>
      `\u03b4${j + 1} = (${c.deltas[l + 1].map((e, k) => `${fmt(net.params[l + 1].W[j][k])}\u00b7(${fmt(e)})`).join(" + ")})\u00b7${fmt(activation(net, l).df(c.z[l][j], c.a[l + 1][j]))} = ${fmt(d)}`)];
  }
  if (now.kind === "gradients") return ["Gradients: dE/dw = (what came in) \u00b7 \u03b4; for a bias, \u03b4 itself", ["They stand on the edges now."]];
  return [`Update: w \u2190 w \u2212 ${fmt(net.rate)}\u00b7dE/dw`, [`The output goes from (${c.a[L].map(fmt).join(", ")}) to (${c.after.a[L].map(fmt).join(", ")}), the loss from ${fmt(c.loss)} to ${fmt(c.lossAfter)}. Next begins another step.`]];
}

// ---- Drawing. ----

function sizesOf(c) {
  return c.deltas.map((d) => d.reduce((sum, v) => sum + Math.abs(v), 0) / d.length);
}

// How strongly a layer is coloured: 1 for the largest delta, 0 for a million times less.
function heat(size, largest) {
  return size > 0 ? Math.max(0, 1 + Math.log10(size / largest) / 6) : 0;
}

function picture(now, index, c) {
  const all = stages(), L = net.params.length, widths = [net.x.length, ...net.params.map(({ b }) => b.length)];
  const gapX = 160, gapY = 104, high = Math.max(...widths) * gapY + 40, wide = 92 + gapX * L, r = 34;
  const shown = (kind, l) => all.slice(0, index + 1).some((s) => s.kind === kind && (l === undefined || s.l === l));
  const at = (l, j) => [46 + gapX * l, 20 + (high - 40) * (j + 0.5) / widths[l]];
  const sizes = sizesOf(c), largest = Math.max(...sizes);
  const parts = [];
  for (let l = 0; l < L; l++) {
    if (!shown("delta", l)) continue;
    const [x] = at(l + 1, 0);
    parts.push(`<rect x="${x - 43}" y="4" width="86" height="${high - 8}" rx="8" style="fill: rgba(var(--hot), ${(0.75 * heat(sizes[l], largest)).toFixed(3)})"/>`);
  }
  const edges = [], labels = [];
  net.params.forEach(({ W }, l) => W.forEach((row, i) => row.forEach((w, j) => {
    const [x1, y1] = at(l, i), [x2, y2] = at(l + 1, j), share = Math.abs(i - j) < 2 ? 0.27 : 0.64; // so that no two labels meet
    edges.push(`<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke-width="${Math.min(5, 0.6 + 1.6 * Math.abs(w)).toFixed(2)}"/>`);
    const kind = now.kind === "gradients" ? "grad" : "weight";
    const value = now.kind === "gradients" ? c.gradients[l].W[i][j] : now.kind === "update" ? c.updated[l].W[i][j] : w;
    const reach = r + share * (x2 - x1 - 2 * r);
    labels.push(`<text class="${kind}" x="${x1 + reach}" y="${y1 + (reach / (x2 - x1)) * (y2 - y1) - 7}">${fmt(value)}</text>`);
  })));
  parts.push(...edges, ...labels);
  widths.forEach((n, l) => {
    for (let j = 0; j < n; j++) {
      const [x, y] = at(l, j), known = l === 0 || shown("forward", l - 1), delta = l > 0 && shown("delta", l - 1);
      const active = (now.kind === "forward" || now.kind === "delta") && now.l === l - 1;
      const letter = l === 0 ? "x" : l === L ? "o" : "a";
      parts.push(`<g class="${active ? "active" : ""}"><circle cx="${x}" cy="${y}" r="${r}"/>` +
        `<text x="${x}" y="${y - (delta ? 10 : 0)}">${letter}${n > 1 ? j + 1 : ""} ${known ? fmt(c.a[l][j]) : ""}</text>` +
        (delta ? `<text class="delta" x="${x}" y="${y + 9}">\u03b4 ${fmt(c.deltas[l - 1][j])}</text>` : "") +
        (l > 0 ? `<text class="soft" x="${x}" y="${y + r + 9}">b ${fmt(net.params[l - 1].b[j])}</text>` : "") + "</g>");
    }
  });
  return `<svg viewBox="0 0 ${wide} ${high}" width="${wide}" height="${high}" role="img" aria-label="The network">${parts.join("")}</svg>`;
}

function table(title, rows) {
  return `<table><caption>${title}</caption><tbody>${rows.map((row) => `<tr>${row.map((v, i) => (i ? `<td>${v}</td>` : `<th scope="row">${v}</th>`)).join("")}</tr>`).join("")}</tbody></table>`;
}

function tables(c) {
  return net.params.map(({ W, b }, l) => table(`Layer ${l + 1}`, [
    ["z", ...c.z[l].map(fmt)], ["a", ...c.a[l + 1].map(fmt)], ["\u03b4", ...c.deltas[l].map(fmt)], ["b", ...b.map(fmt)],
    ...W.map((row, i) => [`w from ${i + 1}`, ...row.map(fmt)]),
    ...c.gradients[l].W.map((row, i) => [`dE/dw from ${i + 1}`, ...row.map(fmt)]),
  ])).join("");
}

function draw() {
  const all = stages();
  stage = Math.min(stage, all.length - 1);
  const now = all[stage], c = compute(net), [title, lines] = explain(now, c);
  $("stage").className = ["delta", "gradients", "update"].includes(now.kind) ? "back" : "";
  $("stage").querySelector("h2").textContent = title;
  $("stage").querySelector("div").innerHTML = lines.map((line) => `<p>${line}</p>`).join("");
  $("picture").innerHTML = picture(now, stage, c);
  const sizes = sizesOf(c), largest = Math.max(...sizes);
  $("sizes").innerHTML = sizes.map((size, l) =>
    `<div class="bar"><span>layer ${l + 1}</span><i style="width: ${(100 * size / largest || 0).toFixed(1)}%; opacity: ${(0.15 + 0.85 * heat(size, largest)).toFixed(2)}"></i><span>${fmt(size)}</span></div>`).join("");
  const { worst, largest: top } = worstDifference(net, c.gradients);
  $("check").innerHTML = `<p>Every weight moved a little both ways, and the loss looked at: the largest difference from backpropagation is <strong>${worst.toExponential(1)}</strong>; the largest gradient is ${fmt(top)}.</p>`;
  $("tables").innerHTML = tables(c);
  $("count").textContent = `${steps} steps of gradient descent; stage ${stage + 1} of ${all.length}; loss ${fmt(c.loss)}`;
  $("back").disabled = stage === 0;
  document.querySelectorAll("output").forEach((out) => { out.textContent = fmt(+$(out.htmlFor.value).value); });
}

function move(by) {
  if (by > 0 && stage === stages().length - 1) commit(1);
  else stage = Math.max(0, stage + by);
  draw();
}

$("preset").innerHTML = [...examples.map((e) => e.title), "A network of your own"].map((t, i) => `<option value="${i}">${t}</option>`).join("");
$("loss").innerHTML = HEADS.map(([, , title], i) => `<option value="${i}">${title}</option>`).join("");
$("preset").addEventListener("change", () => { $("depth").value = 4; reload(); });
$("depth").addEventListener("input", () => { $("preset").value = examples.length; const { hidden } = net; load({ ...ownNetwork(+$("depth").value), hidden }, true); });
$("hidden").addEventListener("change", (e) => { net.hidden = e.target.value; draw(); });
$("loss").addEventListener("change", (e) => { [net.loss, net.output] = HEADS[+e.target.value]; draw(); });
$("rate").addEventListener("input", (e) => { net.rate = +e.target.value; draw(); });
$("biases").addEventListener("change", (e) => { net.biases = e.target.checked; draw(); });
$("next").addEventListener("click", () => move(1));
$("back").addEventListener("click", () => move(-1));
$("step").addEventListener("click", () => { commit(1); draw(); });
$("train").addEventListener("click", () => { commit(100); draw(); });
$("reset").addEventListener("click", reload);
$("knobs").addEventListener("submit", (e) => e.preventDefault());
document.addEventListener("keydown", (e) => {
  if (/^(INPUT|SELECT)$/.test(e.target.tagName) || e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "ArrowRight") move(1);
  else if (e.key === "ArrowLeft") move(-1);
  else return;
  e.preventDefault();
});
// The page that this one is embedded in says whether it is light or dark.
addEventListener("message", (e) => { if (/^(light|dark)$/.test(e.data?.theme)) document.documentElement.dataset.theme = e.data.theme; });
load(examples[0], false);

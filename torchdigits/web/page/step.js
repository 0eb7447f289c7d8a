// The view that steps through back-propagation of one example. The server computes every number, twice; here they are
// only shown. Its matrices come as float64 in base64.

import { ask, byId, colours, make, paintPixels, paintWeights, square, step as arrows } from "./common.js";
import { runsNow } from "./learn.js";
import { onAnswer } from "./paper.js";

const MOST_BARS = 100; // neurons of a layer that are shown
const MOST_TERMS = 10; // of a sum

const form = byId("example");
let drawing = null; // the answer to what is drawn
let pixels = null; // 28 rows: of the example
let found = null; // the numbers
let steps = [];
let at = 0; // the step that is shown
let layerOfWeights = 1; // that the steps of all layers show
const chosen = {}; // of each layer, the neuron that is followed,
const picked = {}; // and whether the reader picked it
let asked = 0; // counts questions, so that a late answer is not shown

// The example

function label() {
  return Number(form.elements.label.value);
}

function want(digit) { // and follow its output
  form.elements.label.value = digit;
  if (found) delete picked[found.layers.length];
}

async function question() {
  const number = (asked += 1);
  const { source, place, learning_rate, run } = form.elements;
  byId("walk").ariaBusy = "true"; // what it shows is not of this question yet
  byId("place").hidden = source.value === "drawing";
  try {
    if (source.value !== "drawing") {
      const image = await ask("GET", `test-images/${source.value}/${Number(place.value) || 0}`);
      if (number !== asked) return;
      place.max = image.images - 1;
      if (pixels?.flat().join() !== image.pixels.flat().join()) want(image.label);
      pixels = image.pixels;
    } else {
      if (drawing && pixels?.flat().join() !== drawing.pixels.flat().join()) want(drawing.digit);
      pixels = drawing?.pixels ?? null;
    }
    paintPixels(byId("example-pixels"), pixels?.flat() ?? Array(784).fill(0));
    if (!pixels) return clear("Draw a digit on the paper, or take a test image.");
    const rate = Number(learning_rate.value);
    const body = { pixels, label: label(), learning_rate: learning_rate.value.trim() === "" || Number.isNaN(rate) ? learning_rate.value : rate };
    const answer = await ask("POST", "steps", run.value ? { ...body, run: run.value } : body);
    if (number !== asked) return;
    found = unpacked(answer);
    byId("step-trouble").textContent = "";
    plan();
    show();
  } catch (error) {
    if (number === asked) clear(error.status ? `${error.message}.` : "No answer from the server. Is it still running?");
  } finally {
    if (number === asked) byId("walk").ariaBusy = "false";
  }
}

function clear(why) {
  found = null;
  byId("step-trouble").textContent = why;
  show();
}

function unpacked(answer) {
  const rows = (text, count) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const numbers = new Float64Array(bytes.buffer);
    const width = numbers.length / count;
    return Array.from({ length: count }, (_, i) => numbers.subarray(i * width, (i + 1) * width));
  };
  answer.layers.forEach((layer, i) => {
    const count = answer.sizes[i + 1];
    layer.weights = rows(layer.weights, count);
    for (const name of ["weight_gradient", "new_weights"]) {
      const { by_hand, by_autograd, largest_ulps } = layer[name];
      layer[name] = { by_hand: rows(by_hand, count), by_autograd: rows(by_autograd, count), largest_ulps };
    }
  });
  return answer;
}

// The steps

function plan() {
  const last = found.layers.length;
  steps = [{ kind: "input", layer: 0, title: "The input a(0)" }];
  for (let l = 1; l <= last; l += 1) steps.push({ kind: "forward", layer: l, title: `Forward: z(${l}), a(${l})` });
  steps.push({ kind: "cost", layer: last, title: "The cost C" });
  steps.push({ kind: "bp1", layer: last, title: `BP1: δ(${last})` });
  for (let l = last - 1; l >= 1; l -= 1) steps.push({ kind: "bp2", layer: l, title: `BP2: δ(${l})` });
  steps.push({ kind: "bp3", layer: null, title: "BP3: ∂C/∂b" });
  steps.push({ kind: "bp4", layer: null, title: "BP4: ∂C/∂W" });
  steps.push({ kind: "update", layer: null, title: "The update" });
  steps.push({ kind: "after", layer: last, title: "The answer after it" });
  at = Math.min(at, steps.length - 1);
  layerOfWeights = Math.min(layerOfWeights, last);
  for (let l = 1; l <= last; l += 1) {
    const errors = found.layers[l - 1].delta.by_hand.map(Math.abs);
    if (!picked[l] || chosen[l] >= errors.length) chosen[l] = l === last ? label() : errors.indexOf(Math.max(...errors));
  }
  byId("step-list").replaceChildren(...steps.map(({ title }, i) => {
    const button = make("button", { textContent: title, tabIndex: i === at ? 0 : -1 });
    button.addEventListener("click", () => go(i));
    return make("li", {}, button);
  }));
}

function go(i) {
  if (!found || i < 0 || i >= steps.length) return;
  at = i;
  show();
}

function choose(layer, neuron) {
  chosen[layer] = neuron;
  picked[layer] = true;
  show();
}

// Numbers and formulas

const minus = (text) => text.replaceAll("-", "−");
const exact = (value) => minus(value !== 0 && Math.abs(value) < 0.001 ? value.toExponential() : String(value + 0));
const short = (number) => {
  const size = Math.abs(number);
  if (size === 0) return "0";
  const text = size >= 0.001 && size < 10_000 ? number.toFixed(size < 0.1 ? 5 : size < 10 ? 4 : 1) : number.toExponential(2);
  return minus(text);
};

// MathML, from a small language: names with an upper and a lower index, as in "δ^2_3".
function math(...parts) {
  const element = m("math", ...parts.map(symbol));
  element.setAttribute("displaystyle", "true");
  return make("div", { className: "formula", tabIndex: 0 }, element); // as it may have to be scrolled
}

function m(name, ...children) {
  const element = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  element.append(...children);
  if (name === "mo") element.setAttribute("stretchy", "false");
  return element;
}

function symbol(part) {
  if (typeof part !== "string") return part;
  const [, name, upper, lower] = part.match(/^([^^_]+)(?:\^([^_]+))?(?:_(.+))?$/);
  const base = m(/^[\d.−]./.test(name) || /^\d/.test(name) ? "mn" : /^[\p{L}∂∇]/u.test(name) ? "mi" : "mo", name);
  const index = (text) => m("mrow", ...text.match(/\d+|\D/g).map((one) => m(/\d/.test(one) ? "mn" : one === "," ? "mo" : "mi", one)));
  if (upper && lower) return m("msubsup", base, index(lower), index(upper));
  if (upper) return m("msup", base, index(upper));
  return lower ? m("msub", base, index(lower)) : base;
}

const fraction = (over, under) => m("mfrac", m("mrow", ...over.map(symbol)), m("mrow", ...under.map(symbol)));
const sum = (lower) => m("munder", m("mo", "∑"), m("mi", lower));
const number = (value) => m("mn", short(value));
const group = (value) => (value < 0 ? m("mrow", m("mo", "("), number(value), m("mo", ")")) : number(value));

const SENTENCES = {
  input: () => ["The image: 784 shades from 0, paper, to 1, ink. They are the activations of the input layer."],
  forward: (l) => [
    "Each neuron weighs the activations of the layer before it, adds its bias, and squashes the sum z to an activation a between 0 and 1.",
    math(`z^${l}_j`, "=", sum("k"), `w^${l}_jk`, `a^${l - 1}_k`, "+", `b^${l}_j`, ",", m("mspace"), `a^${l}_j`, "=", "σ", "(", `z^${l}_j`, ")"),
  ],
  cost: (l) => [
    "How far the ten outputs are from the wanted ones, in one number. Back-propagation asks how it changes with every weight and bias.",
    math("C", "=", fraction(["1"], ["2"]), sum("j"), "(", `a^${l}_j`, "−", "y_j", m("msup", m("mo", ")"), m("mn", "2"))),
  ],
  bp1: (l) => [
    "The error δ of an output is how the cost changes with its weighted input: how wrong the output is, times how steep the sigmoid is there. A saturated output has almost none, however wrong it is.",
    math(`δ^${l}_j`, "=", "(", `a^${l}_j`, "−", "y_j", ")", "σ′", "(", `z^${l}_j`, ")"),
  ],
  bp2: (l) => [
    "The errors of the next layer go back through the same weights that the activations came forward through. A hidden neuron's error is the sum of those that it had a part in, times its own steepness.",
    math(`δ^${l}_j`, "=", "(", sum("k"), `w^${l + 1}_kj`, `δ^${l + 1}_k`, ")", "σ′", "(", `z^${l}_j`, ")"),
  ],
  bp3: (l) => [
    "How the cost changes with a bias is the neuron's error itself.",
    math(fraction(["∂", "C"], ["∂", `b^${l}_j`]), "=", `δ^${l}_j`),
  ],
  bp4: (l) => [
    "How the cost changes with a weight: the error of the neuron that it leads to, times the activation that comes in through it. A weight from a pixel without ink learns nothing.",
    math(fraction(["∂", "C"], ["∂", `w^${l}_jk`]), "=", `a^${l - 1}_k`, `δ^${l}_j`),
  ],
  update: (l) => [
    "Every weight and bias takes a step against its gradient: η times as long.",
    math(`w^${l}_jk`, "→", `w^${l}_jk`, "−", "η", fraction(["∂", "C"], ["∂", `w^${l}_jk`]), ",", m("mspace"), `b^${l}_j`, "→", `b^${l}_j`, "−", "η", fraction(["∂", "C"], ["∂", `b^${l}_j`])),
  ],
  after: () => [
    "The same image again, with the new weights. The gradient predicts how far the cost falls, for a small step; a large one leaves the straight line behind.",
    math(m("mrow", m("mi", "Δ"), m("mi", "C")), "≈", "−", "η", m("msup", m("mrow", m("mo", "|"), m("mi", "∇C"), m("mo", "|")), m("mn", "2"))),
  ],
};

// Showing a step

function show() {
  for (const part of ["step-title", "sentence", "equation", "layer-title"]) byId(part).replaceChildren();
  byId("layer-bars").replaceChildren();
  byId("chosen").replaceChildren();
  byId("walk").hidden = !found;
  if (!found) return;
  const { kind, title, layer } = steps[at];
  const l = layer ?? layerOfWeights;
  [...byId("step-list").querySelectorAll("button")].forEach((button, i) => {
    if (i === at) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
    button.tabIndex = i === at ? 0 : -1;
  });
  byId("back").disabled = at === 0;
  byId("forth").disabled = at === steps.length - 1;
  const [sentence, equation] = SENTENCES[kind](l);
  byId("step-title").textContent = title;
  byId("sentence").textContent = sentence;
  if (equation) byId("equation").append(equation);
  ({ input: showInput, forward: showForward, cost: showCost, bp1: showBp1, bp2: showBp2, bp3: showBp3, bp4: showBp4, update: showUpdate, after: showAfter })[kind](l);
}

function layerChoice() { // for the steps that are about every layer
  const row = make("div", { className: "layers", role: "group", ariaLabel: "Layer" });
  found.layers.forEach((_, i) => {
    const button = make("button", { textContent: `Layer ${i + 1}`, ariaPressed: String(i + 1 === layerOfWeights) });
    button.addEventListener("click", () => {
      layerOfWeights = i + 1;
      show();
      byId("chosen").querySelectorAll(".layers button")[i].focus();
    });
    row.append(button);
  });
  return row;
}

function bars(l, what, values, marks) { // a bar for each neuron of a layer; a click follows that neuron
  const shown = values.slice(0, MOST_BARS);
  const largest = Math.max(...shown.map(Math.abs), ...(marks ?? []).map(Math.abs)) || 1;
  const negative = shown.some((value) => value < 0);
  byId("layer-title").append(what + (shown.length < values.length ? `, the first ${MOST_BARS} of ${values.length}` : ""));
  const list = shown.map((value, j) => {
    const button = make("button", { className: "bar-row", ariaPressed: String(chosen[l] === j), tabIndex: chosen[l] === j ? 0 : -1 });
    const bar = make("i", { className: "diverging" });
    bar.classList.toggle("two-sided", negative);
    bar.classList.toggle("against", value < 0);
    bar.style.setProperty("--length", Math.abs(value) / largest);
    if (marks) bar.style.setProperty("--mark", Math.abs(marks[j]) / largest);
    bar.classList.toggle("marked", Boolean(marks));
    button.append(make("b", { textContent: j }), bar, make("span", { textContent: short(value) }));
    button.addEventListener("click", () => {
      choose(l, j);
      byId("layer-bars").children[j].focus();
    });
    return button;
  });
  byId("layer-bars").replaceChildren(...list);
  const { offsetTop, offsetHeight } = list[chosen[l]] ?? list[0];
  const box = byId("layer-bars");
  box.scrollTop = Math.max(0, offsetTop - box.offsetTop + offsetHeight - box.clientHeight);
}

function table(rows) { // [name, {by_hand, by_autograd, ulps}, place]
  const body = make("tbody");
  for (const [name, numbers, place] of rows) {
    const [hand, autograd] = [numbers.by_hand[place], numbers.by_autograd[place]];
    const ulps = numbers.ulps ? numbers.ulps[place] : numbers.largest_ulps;
    const row = make("tr", {}, make("th", { scope: "row" }, name));
    for (const value of [hand, autograd]) row.append(make("td", { textContent: exact(value), className: "exact" }));
    row.append(make("td", { textContent: `${ulps < 10 ? +ulps.toFixed(2) : Math.round(ulps)}` }));
    body.append(row);
  }
  const head = ["", "by hand", "by autograd", "differ by, ulp"].map((text) => make("th", { textContent: text, scope: "col" }));
  const element = make("table", {}, make("thead", {}, make("tr", {}, ...head)), body);
  return make("div", { className: "numbers", tabIndex: 0 }, element);
}

function picture(title, paint) {
  const canvas = square(28);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  paint(canvas);
  return make("figure", {}, canvas, make("figcaption", { textContent: title }));
}

const largestOf = (values) => values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) || 1;
const weightsPicture = (title, values) => picture(title, (canvas) => paintWeights(canvas, values, largestOf(values), colours()));
const inkPicture = () => picture("the input a(0)", (canvas) => paintPixels(canvas, pixels.flat()));

function pictures(...figures) {
  return make("div", { className: "pictures" }, ...figures);
}

function terms(values, name) { // the largest terms of a sum, as bars
  const order = values.map((value, k) => [value, k]).sort(([a], [b]) => Math.abs(b) - Math.abs(a)).slice(0, MOST_TERMS);
  const largest = Math.abs(order[0]?.[0]) || 1;
  const list = make("ol", { className: "terms" });
  for (const [value, k] of order) {
    const bar = make("i", { className: "diverging two-sided" });
    bar.classList.toggle("against", value < 0);
    bar.style.setProperty("--length", Math.abs(value) / largest);
    list.append(make("li", {}, make("b", { textContent: k }), bar, make("span", { textContent: short(value) })));
  }
  const what = values.length > MOST_TERMS ? `The ${MOST_TERMS} largest of the ${values.length} terms ${name}` : `The terms ${name}`;
  return make("div", {}, make("p", { textContent: what }), list);
}

const named = (name, l, j) => make("span", {}, name, make("sup", { textContent: l }), make("sub", { textContent: j }));
const called = (l, j) => (l === found.layers.length ? `Output ${j}` : `Hidden neuron ${j}`);

function tell(...parts) {
  byId("chosen").append(...parts);
}

function heading(l, j) {
  tell(make("h4", { textContent: called(l, j) }));
}

function before(l) { // the activations of the layer before
  return l === 1 ? found.x : found.layers[l - 2].a.by_hand;
}

function showInput() {
  const ink = found.x.filter((value) => value > 0).length;
  byId("layer-title").append("The image");
  byId("layer-bars").append(pictures(inkPicture()));
  tell(make("p", { textContent: `${ink} of 784 pixels have ink; wanted is a ${label()}: output ${label()} at 1, the others at 0.` }));
}

function showForward(l) {
  const layer = found.layers[l - 1];
  const j = chosen[l];
  const products = Array.from(layer.weights[j], (weight, k) => weight * before(l)[k]);
  bars(l, `Activations a(${l})`, layer.a.by_hand);
  heading(l, j);
  const total = products.reduce((a, b) => a + b, 0);
  tell(math(`z^${l}_${j}`, "=", number(total), "+", group(layer.biases[j]), "=", number(layer.z.by_hand[j])));
  tell(math(`a^${l}_${j}`, "=", "σ", "(", number(layer.z.by_hand[j]), ")", "=", number(layer.a.by_hand[j])));
  if (l === 1) tell(pictures(weightsPicture("weights w", layer.weights[j]), inkPicture(), weightsPicture("their products", products)));
  else tell(terms(products, "w a"));
  tell(table([[named("z", l, j), layer.z, j], [named("a", l, j), layer.a, j]]));
}

function showCost(l) {
  const { a } = found.layers[l - 1];
  const j = chosen[l];
  bars(l, `Outputs a(${l}); the line is what is wanted`, a.by_hand, found.y);
  heading(l, j);
  const part = (a.by_hand[j] - found.y[j]) ** 2 / 2;
  tell(math("C", "=", number(found.cost.by_hand[0])));
  tell(make("p", { textContent: `Output ${j} gives ${short(a.by_hand[j])}, wanted is ${found.y[j]}; its part of the cost is ${short(part)}.` }));
  tell(table([["C", found.cost, 0]]));
}

function showBp1(l) {
  const { a, z, slope, delta } = found.layers[l - 1];
  const j = chosen[l];
  bars(l, `Errors δ(${l})`, delta.by_hand);
  heading(l, j);
  tell(math(`δ^${l}_${j}`, "=", "(", number(a.by_hand[j]), "−", m("mn", String(found.y[j])), ")", "·", number(slope[j]), "=", number(delta.by_hand[j])));
  tell(make("p", { textContent: `The weighted input is ${short(z.by_hand[j])}; there the sigmoid's slope is ${short(slope[j])} of at most 0.25.` }));
  tell(table([[named("δ", l, j), delta, j]]));
}

function showBp2(l) {
  const { slope, delta } = found.layers[l - 1];
  const next = found.layers[l];
  const j = chosen[l];
  const parts = next.weights.map((row, k) => row[j] * next.delta.by_hand[k]);
  bars(l, `Errors δ(${l})`, delta.by_hand);
  heading(l, j);
  tell(math(`δ^${l}_${j}`, "=", group(parts.reduce((a, b) => a + b, 0)), "·", number(slope[j]), "=", number(delta.by_hand[j])));
  tell(terms(parts, `w(${l + 1}) δ(${l + 1})`));
  tell(table([[named("δ", l, j), delta, j]]));
}

function showBp3(l) {
  const { bias_gradient } = found.layers[l - 1];
  const j = chosen[l];
  bars(l, `∂C/∂b(${l})`, bias_gradient.by_hand);
  tell(layerChoice());
  heading(l, j);
  tell(math(fraction(["∂", "C"], ["∂", `b^${l}_${j}`]), "=", `δ^${l}_${j}`, "=", number(bias_gradient.by_hand[j])));
  tell(table([[named("∂C/∂b", l, j), bias_gradient, j]]));
}

function showBp4(l) {
  const { weights, weight_gradient, delta } = found.layers[l - 1];
  const j = chosen[l];
  const row = weight_gradient.by_hand[j];
  bars(l, `Errors δ(${l})`, delta.by_hand);
  tell(layerChoice());
  heading(l, j);
  if (l === 1) tell(pictures(weightsPicture("weights w", weights[j]), weightsPicture("gradient ∂C/∂w", row)));
  else tell(terms([...row], "∂C/∂w = a δ"));
  const k = row.reduce((best, value, place) => (Math.abs(value) > Math.abs(row[best]) ? place : best), 0);
  tell(math(fraction(["∂", "C"], ["∂", `w^${l}_${j},${k}`]), "=", number(before(l)[k]), "·", group(delta.by_hand[j]), "=", number(row[k])));
  tell(make("p", { textContent: `The largest of its ${row.length} is that of the weight from ${l === 1 ? `pixel ${k}, in row ${Math.floor(k / 28)}, column ${k % 28}` : `neuron ${k}`}. The difference is the largest of the layer.` }));
  tell(table([[named("∂C/∂w", l, `${j},${k}`), of(weight_gradient, j), k]]));
}

function of({ by_hand, by_autograd, largest_ulps }, j) {
  return { by_hand: by_hand[j], by_autograd: by_autograd[j], largest_ulps };
}

function showUpdate(l) {
  const { weights, weight_gradient, new_weights, new_biases, biases, bias_gradient } = found.layers[l - 1];
  const j = chosen[l];
  const eta = found.learning_rate;
  const change = Array.from(weight_gradient.by_hand[j], (slope) => -eta * slope);
  bars(l, `Changes of the biases, −η ∂C/∂b(${l})`, bias_gradient.by_hand.map((slope) => -eta * slope));
  tell(layerChoice());
  heading(l, j);
  const full = largestOf(weights[j]);
  const paint = (values) => (canvas) => paintWeights(canvas, values, full, colours());
  if (l === 1) tell(pictures(picture("before", paint(weights[j])), weightsPicture("change, strengthened", change), picture("after", paint(new_weights.by_hand[j]))));
  else tell(terms(change, "−η ∂C/∂w"));
  const row = weight_gradient.by_hand[j];
  const k = row.reduce((best, value, place) => (Math.abs(value) > Math.abs(row[best]) ? place : best), 0);
  tell(math(`b^${l}_${j}`, "→", number(biases[j]), "−", number(found.learning_rate), "·", group(bias_gradient.by_hand[j]), "=", number(new_biases.by_hand[j])));
  tell(math(`w^${l}_${j},${k}`, "→", number(weights[j][k]), "−", number(found.learning_rate), "·", group(row[k]), "=", number(new_weights.by_hand[j][k])));
  tell(table([[named("b", l, j), new_biases, j], [named("w", l, `${j},${k}`), of(new_weights, j), k]]));
}

function showAfter(l) {
  const { a, new_a } = found.layers[l - 1];
  const j = chosen[l];
  bars(l, `Outputs a(${l}) after the update; the line is what they were`, new_a.by_hand, a.by_hand);
  const best = (values) => values.indexOf(Math.max(...values));
  const [was, is] = [best(a.by_hand), best(new_a.by_hand)];
  tell(make("h4", { textContent: was === is ? `The answer stays ${is}` : `The answer was ${was}, and is ${is}` }));
  const fall = found.cost.by_hand[0] - found.new_cost.by_hand[0];
  tell(make("p", { textContent: `The cost ${fall < 0 ? "rises" : "falls"} from ${short(found.cost.by_hand[0])} to ${short(found.new_cost.by_hand[0])}, by ${short(Math.abs(fall))}. The gradient predicted a fall of ${short(found.predicted_fall.by_hand[0])}. With a smaller learning rate they agree better.` }));
  tell(table([
    [named("a", l, j), new_a, j],
    ["C before", found.cost, 0],
    ["C after", found.new_cost, 0],
    ["predicted", found.predicted_fall, 0],
  ]));
}

// The page's life

export function refresh() {
  const { run } = form.elements;
  const was = run.value;
  run.replaceChildren(new Option("the trained one", ""));
  for (const { run: name, header } of runsNow()) {
    run.add(new Option(`run with η ${header.learning_rate}, now`, name));
  }
  run.value = [...run.options].some(({ value }) => value === was) ? was : "";
  ask("GET", "runs").then(({ datasets }) => {
    const { source } = form.elements;
    if (datasets.includes("mnist") && source.options.length === 2) source.add(new Option("test, MNIST", "mnist"));
  }).catch(() => {});
  question();
}

for (let digit = 0; digit < 10; digit += 1) form.elements.label.add(new Option(digit, digit));
form.addEventListener("change", (event) => {
  if (event.target.name === "label") want(label());
  question();
});
form.addEventListener("submit", (event) => event.preventDefault());
byId("back").addEventListener("click", () => go(at - 1));
byId("forth").addEventListener("click", () => go(at + 1));
byId("step-list").addEventListener("keydown", arrows);
byId("layer-bars").addEventListener("keydown", (event) => {
  const layer = steps[at]?.layer ?? layerOfWeights;
  arrows(event);
  const button = document.activeElement.closest("#layer-bars .bar-row");
  if (button && event.defaultPrevented) {
    const neuron = [...byId("layer-bars").children].indexOf(button);
    choose(layer, neuron);
    byId("layer-bars").children[neuron].focus();
  }
});
addEventListener("keydown", (event) => {
  if (document.body.dataset.view !== "step-through" || event.target.matches("input, select")) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.toLowerCase() === "n") go(at + 1);
  if (event.key.toLowerCase() === "p") go(at - 1);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
onAnswer((answer) => {
  drawing = answer;
  if (document.body.dataset.view === "step-through" && form.elements.source.value === "drawing") question();
});

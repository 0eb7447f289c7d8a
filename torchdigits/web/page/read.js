// The view that reads: what the network answers to the drawing, and its neurons. It computes nothing itself.

import { byId, colours, paintPixels, paintWeights, signed, square, step } from "./common.js";
import { complain, isEmpty, onAnswer } from "./paper.js";

const SILENCE = 700; // milliseconds without a new answer until a screen reader says the last

const lit = []; // of every layer, the elements that show a neuron each
let network = null;
let answer = null;
let saying = null; // the timer of what a screen reader is told

function show(newAnswer) {
  answer = newAnswer;
  paintPixels(byId("pixels"), answer?.pixels.flat() ?? Array(784).fill(0));
  byId("digit").textContent = answer?.digit ?? "";
  byId("digit").classList.toggle("unsure", answer?.sure === false);
  byId("second").textContent = answer ? spoken(answer) : isEmpty() ? "Nothing drawn yet." : "";
  clearTimeout(saying);
  if (answer) saying = setTimeout(() => (byId("said").textContent = `${answer.digit}, ${spoken(answer)}`), SILENCE);
  else byId("said").textContent = "";
  lit.forEach((elements, layer) => {
    const activations = answer && (answer.hidden[layer] ?? answer.activations);
    for (const element of elements) {
      const activation = activations?.[element.dataset.neuron];
      element.style.setProperty("--activation", activation ?? 0);
      if (element.matches("li")) element.querySelector(".value").textContent = activation?.toFixed(2) ?? "";
      else element.setAttribute("aria-label", describe(element, activation));
      element.classList.toggle("answer", element.matches("li") && +element.dataset.neuron === answer?.digit);
    }
  });
  explain();
}

function spoken({ runner_up, sure }) {
  return sure ? `second ${runner_up}` : `a guess: this is hardly like a digit. Second ${runner_up}`;
}

// The neuron under the pointer, or with the focus, shows what it feeds

let shown = null;

function point(button) {
  shown = button;
  document.querySelectorAll(".shown, .fed").forEach((element) => element.classList.remove("shown", "fed"));
  byId("wires").replaceChildren();
  explain();
  if (!shown) return;
  shown.classList.add("shown");
  const layer = +shown.dataset.layer + 1;
  const weights = network.layers[layer]?.weights.map((row) => row[shown.dataset.neuron]) ?? [];
  const largest = Math.max(...weights.map(Math.abs)) || 1;
  weights.forEach((weight, i) => {
    const element = lit[layer][i];
    element.classList.add("fed");
    element.classList.toggle("against", weight < 0);
    element.style.setProperty("--strength", Math.abs(weight) / largest);
    element.dataset.weight = signed(weight);
    byId("wires").append(wire(shown, element));
  });
}

function wire(from, to) {
  const [origin, start, end] = [byId("wires"), from, to].map((element) => element.getBoundingClientRect());
  const [x1, y1] = [start.right - origin.left, start.top + start.height / 2 - origin.top];
  const [x2, y2] = [end.left - origin.left - 4, end.top + end.height / 2 - origin.top];
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${x1} ${y1} C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`);
  path.classList.toggle("against", to.matches(".against"));
  path.style.setProperty("--strength", to.style.getPropertyValue("--strength"));
  return path;
}

function explain() {
  const hint = network?.layers.length === 1 ? "" : "Point at a neuron, or tap it, to see what it feeds.";
  byId("feeds").textContent = shown?.getAttribute("aria-label") ?? hint;
}

function describe(button, activation) {
  const { name, feeds } = button.dataset;
  return `${name}${activation === undefined ? "" : `, activation ${activation.toFixed(2)}`}.${feeds}`;
}

// The network, once it is known

function neurons(layer) {
  const [last, group] = [network.layers.length - 1, document.createElement("div")];
  const { weights } = network.layers[layer];
  group.className = "layer";
  group.setAttribute("role", "toolbar");
  group.setAttribute("aria-label", `Layer ${layer + 1}, ${weights.length} neurons; arrow keys go from one to the next`);
  group.style.setProperty("--columns", Math.ceil(Math.sqrt(1.2 * weights.length)));
  group.append(
    ...weights.map((row, i) => {
      const button = document.createElement("button");
      const name = layer === last ? `Output ${i}` : `Hidden neuron ${i}`;
      Object.assign(button.dataset, { layer, neuron: i, name, feeds: layer === last ? "" : feeds(layer, i) });
      button.tabIndex = i ? -1 : 0;
      if (layer === 0) button.append(square(28));
      button.addEventListener("click", () => button.focus()); // not every browser does
      button.addEventListener("focus", () => point(button));
      button.addEventListener("blur", () => point(null));
      button.addEventListener("pointerenter", () => point(button));
      button.addEventListener("pointerleave", () => point(document.activeElement.closest(".layer button")));
      return button;
    }),
  );
  group.addEventListener("keydown", step);
  return [...group.children];
}

function feeds(layer, i) {
  const last = layer + 2 === network.layers.length;
  const fed = network.layers[layer + 1].weights.map((row, j) => [row[i], j]).sort(([a], [b]) => b - a);
  const list = (pairs) => pairs.map(([weight, name]) => `${name} (${signed(weight)})`).join(" and ");
  const [highest, lowest] = [list(fed.slice(0, 2)), list(fed.slice(-2).reverse())];
  return ` Weights to the ${last ? "outputs" : "next layer"}: highest to ${highest}, lowest to ${lowest}.`;
}

function paint() {
  if (!network) return;
  const { weights } = network.layers[0];
  const magnitudes = weights.flat().map(Math.abs).sort((a, b) => a - b);
  const full = magnitudes[Math.floor(0.99 * magnitudes.length)] || 1; // the few larger ones have the same colour
  document.querySelectorAll(".layer canvas").forEach((canvas, i) => paintWeights(canvas, weights[i], full, colours()));
}

async function build() {
  network = await (await fetch("network")).json();
  const [sizes, depth] = [network.sizes.join("-"), network.layers.length];
  byId("about").textContent = `A network of ${sizes} sigmoid neurons reads a digit while you draw it.`;
  byId("card").textContent =
    `${network.file}: ${sizes} neurons, ${network.parameters.toLocaleString("en")} weights and biases.` +
    (network.card ? ` Data: ${network.card.data}. It recognises ${network.card.test} of the test images.` : "");
  if (depth === 1) byId("neurons-title").textContent = "Output neurons";
  for (let layer = 0; layer < Math.max(1, depth - 1); layer += 1) {
    lit[layer] = neurons(layer);
    byId("layers").append(lit[layer][0].parentElement);
  }
  lit[depth - 1] = [...(lit[depth - 1] ?? []), ...byId("bars").children];
  paint();
  show(answer);
}

for (let digit = 0; digit < 10; digit += 1) {
  const row = byId("bars").appendChild(document.createElement("li"));
  row.dataset.neuron = digit;
  row.innerHTML = `<b>${digit}</b><i class="bar"></i><span class="value"></span><i class="weight"></i>`;
}
byId("origin").textContent = location.origin;
addEventListener("resize", () => point(shown));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
onAnswer(show);
build().catch(() => complain("No answer from the server. Start it again, and reload the page."));

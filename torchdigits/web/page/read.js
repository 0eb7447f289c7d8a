// The page sends the drawing as it grows, one request at a time, and shows each answer. It computes nothing itself.

const PEN = 0.085; // width of a stroke, of the paper's side
const SENT = 224; // side of the picture that is sent, in pixels
const TIMEOUT = 10_000; // milliseconds for an answer
const PROMPT = 100; // milliseconds; a server that takes longer is busy, and gets a rest for as long as it took,
const REST = 1000; // but no longer than this
const SILENCE = 700; // milliseconds without a new answer until a screen reader says the last

const byId = (id) => document.getElementById(id);
const paper = byId("paper");
const strokes = []; // each a list of points [x, y], 0 to 1
let picture = null; // {file, image}: pasted, dropped or chosen, and shown instead of the strokes
let page = null; // what is read on it: {size, text, digits}
let chosen = 0; // of its digits, the one that is shown
let pointer = null; // the id of the mouse, pen or finger that draws

// Drawing

function paint(context, side) {
  context.lineWidth = side * PEN;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * side, y * side]);
    context.beginPath();
    context.moveTo(...points[0]);
    if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]); // a line without length is not drawn
    points.forEach(([x, y], i) => {
      const [nextX, nextY] = points[i + 1] ?? [x, y];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    });
    context.stroke();
  }
}

function repaint() {
  const side = (paper.width = paper.height = Math.round(paper.clientWidth * devicePixelRatio)); // which clears it
  const context = paper.getContext("2d");
  context.strokeStyle = getComputedStyle(paper).color;
  if (picture?.image) {
    const { width, height } = picture.image;
    const scale = side / Math.max(width, height);
    const [left, top] = [(side - width * scale) / 2, (side - height * scale) / 2];
    context.drawImage(picture.image, left, top, width * scale, height * scale);
    if (page?.digits.length > 1) paintBoxes(context, side);
  } else if (!picture) {
    paint(context, side);
  }
  byId("hint").hidden = !isEmpty();
}

function placeOf([left, top, right, bottom], side) { // of a box on the picture, in pixels of the paper
  const [width, height] = page.size;
  const scale = side / Math.max(width, height);
  const [x, y] = [(side - width * scale) / 2, (side - height * scale) / 2];
  return [x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale];
}

function paintBoxes(context, side) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => `rgb(${style.getPropertyValue(name)})`;
  page.digits.forEach(({ box, sure }, i) => {
    context.strokeStyle = colour(sure ? "--against" : "--for");
    context.lineWidth = (i === chosen ? 3 : 1) * devicePixelRatio;
    context.strokeRect(...placeOf(box, side));
  });
}

function digitAt(event) { // of the page, under the pointer; -1 if there is none
  if (!picture?.image || !(page?.digits.length > 1)) return -1;
  const paperBox = paper.getBoundingClientRect();
  const [x, y, near] = [event.clientX - paperBox.left, event.clientY - paperBox.top, 4];
  return page.digits.findIndex(({ box }) => {
    const [left, top, width, height] = placeOf(box, paperBox.width);
    return x > left - near && x < left + width + near && y > top - near && y < top + height + near;
  });
}

function choose(i) {
  chosen = i;
  repaint();
  show(page.digits[i]);
}

function showText() { // a button for each digit, in the page's lines
  const several = page?.digits.length > 1;
  byId("text").hidden = !several;
  let i = 0;
  const button = (digit) => {
    const element = document.createElement("button");
    const [number, { sure }] = [i, page.digits[i]];
    element.textContent = digit;
    element.classList.toggle("unsure", !sure);
    element.setAttribute("aria-label", `${digit}${sure ? "" : ", unsure"}`);
    element.addEventListener("click", () => choose(number));
    i += 1;
    return element;
  };
  const line = (digits) => {
    const element = document.createElement("div");
    element.append(...[...digits].map(button));
    return element;
  };
  byId("text").replaceChildren(...(several ? page.text.split("\n").map(line) : []));
}

function square(side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  return canvas;
}

function isEmpty() {
  return !picture && !strokes.length;
}

function addPoint(event) {
  const box = paper.getBoundingClientRect();
  strokes.at(-1).push([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
}

paper.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  const digit = digitAt(event);
  if (digit >= 0) return choose(digit);
  if (picture) startOver(null);
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  strokes.push([]);
  addPoint(event);
  changed();
});

paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  (events.length ? events : [event]).forEach(addPoint);
  changed();
});

paper.addEventListener("lostpointercapture", () => (pointer = null));

function undo() {
  if (picture || strokes.length < 2) return startOver(null);
  pointer = null;
  strokes.pop();
  changed();
}

function startOver(newPicture) {
  pointer = null;
  strokes.length = 0;
  picture = newPicture;
  page = null;
  chosen = 0;
  showText();
  starts += 1;
  show(null);
  changed();
}

byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", () => startOver(null));
addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") undo();
  else if (event.key === "Escape" || event.key === "Delete") startOver(null);
  else return;
  event.preventDefault();
});

// Pictures

async function bring(files) {
  if (!files.length) return complain("That was not a picture file.");
  const image = await createImageBitmap(files[0]).catch(() => null); // the server reads some that the browser does not
  startOver({ file: files[0], image });
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) bring([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => bring(event.clipboardData.files));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  bring(event.dataTransfer.files);
});

// Asking: one request at a time, then one for the newest drawing. The answer to a cleared drawing is not shown

let changes = 0;
let starts = 0;
let asking = false;

function changed() {
  changes += 1;
  repaint();
  ask();
}

async function ask() {
  if (asking) return;
  asking = true;
  for (let asked = null; asked !== changes; ) {
    await new Promise(requestAnimationFrame);
    asked = changes;
    const [start, since] = [starts, performance.now()];
    const reply = isEmpty() ? {} : await recognize();
    const took = performance.now() - since;
    if (start === starts) {
      complain(reply.error ?? "");
      page = reply.digits ? reply : null;
      showText();
      show(page?.digits[chosen] ?? (reply.activations ? reply : null));
      if (page) repaint();
    }
    if (took > PROMPT) await new Promise((resolve) => setTimeout(resolve, Math.min(took, REST)));
  }
  asking = false;
}

async function recognize() {
  try {
    const body = picture?.file ?? (await drawn());
    const headers = { "Content-Type": body.type || "application/octet-stream" };
    const signal = AbortSignal.timeout(TIMEOUT);
    const response = await fetch(picture ? "read" : "recognize", { method: "POST", body, headers, signal });
    return await response.json();
  } catch {
    return { error: "No answer from the server. Is it still running? The next stroke asks again." };
  }
}

function drawn() {
  const canvas = square(SENT);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, SENT, SENT);
  context.strokeStyle = "white";
  paint(context, SENT);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

// Showing

const lit = []; // of every layer, the elements that show a neuron each
let network = null;
let answer = null;
let saying = null; // the timer of what a screen reader is told

function show(newAnswer) {
  answer = newAnswer;
  const context = byId("pixels").getContext("2d");
  const shades = context.createImageData(28, 28);
  (answer?.pixels.flat() ?? Array(784).fill(0)).forEach((grey, i) => shades.data.set([grey, grey, grey, 255], 4 * i));
  context.putImageData(shades, 0, 0);
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

function complain(text) {
  byId("trouble").textContent = text;
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

function signed(weight) {
  return `${weight < 0 ? "−" : "+"}${Math.abs(weight).toFixed(1)}`;
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

function step(event) {
  const buttons = [...event.currentTarget.children];
  const at = buttons.indexOf(event.target);
  const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at };
  const next = event.key === "End" ? buttons.at(-1) : buttons[at + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function paintWeights() {
  if (!network) return;
  const { weights } = network.layers[0];
  const magnitudes = weights.flat().map(Math.abs).sort((a, b) => a - b);
  const full = magnitudes[Math.floor(0.99 * magnitudes.length)] || 1; // the few larger ones have the same colour
  const style = getComputedStyle(document.documentElement);
  const [positive, negative] = ["--for", "--against"].map((name) => style.getPropertyValue(name).split(" "));
  document.querySelectorAll(".layer canvas").forEach((canvas, i) => {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(28, 28);
    weights[i].forEach((weight, j) => {
      pixels.data.set([...(weight < 0 ? negative : positive), (255 * Math.abs(weight)) / full], 4 * j);
    });
    context.putImageData(pixels, 0, 0);
  });
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
  paintWeights();
  show(answer);
}

for (let digit = 0; digit < 10; digit += 1) {
  const row = byId("bars").appendChild(document.createElement("li"));
  row.dataset.neuron = digit;
  row.innerHTML = `<b>${digit}</b><i class="bar"></i><span class="value"></span><i class="weight"></i>`;
}
byId("origin").textContent = location.origin;
addEventListener("resize", () => (repaint(), point(shown)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (repaint(), paintWeights()));
repaint();
build().catch(() => complain("No answer from the server. Start it again, and reload the page."));

// The view that learns: runs on the server, side by side. A frame is asked for when the last one has been drawn, so
// that the page is never further behind than one.

import { ask, byId, colours, make } from "./common.js";
import { onAnswer } from "./paper.js";
import { paintNeurons, plot, plotRecall } from "./charts.js";

const MOST = 3; // runs side by side
const PACES = [1, 3, 10, 30, 100, 300, 1000, 0]; // updates a second; 0: as many as can be
const LOST = 0.5; // share of a digit's images below which it counts as lost
const RETRY = 1000; // milliseconds until a server that gave no answer is asked again
const KEPT = "torchdigits-runs"; // in sessionStorage: what a reload finds again

const form = byId("options");
const columns = [];
let added = 0; // columns so far
let drawing = null; // 28 rows of pixels, which the runs answer
let updatesAsked = 0; // clicks that asked for updates, since the page was loaded
let busy = false; // while requests of a button are under way

// A column: a run, or one that has not begun

function addColumn(learningRate) {
  const name = `learning-rate-${added++}`;
  const rate = make("input", { value: learningRate, inputMode: "decimal", id: name, className: "rate" });
  const remove = make("button", { className: "remove", textContent: "×" });
  remove.setAttribute("aria-label", "Take this run away");
  const parts = {
    rate,
    remove,
    status: make("p", { className: "status" }),
    now: make("p", { className: "now" }),
    accuracy: make("canvas", { className: "chart" }),
    cost: make("canvas", { className: "chart" }),
    recall: make("canvas", { className: "chart recall" }),
    lost: make("p", { className: "lost" }),
    neurons: make("canvas", { className: "weights" }),
    neuronsTitle: make("h3"),
    said: make("p", { className: "answer" }),
    bars: make("ol", { className: "small-bars" }),
    test: make("p", { className: "test" }),
    save: make("a", { className: "save", textContent: "Download the checkpoint" }),
    shell: make("code"),
  };
  for (let digit = 0; digit < 10; digit += 1) {
    const row = make("li", {}, make("b", { textContent: digit }), make("i", { className: "bar" }));
    row.append(make("span", { className: "value" }));
    parts.bars.append(row);
  }
  for (const [chart, label] of [[parts.accuracy, "Accuracy"], [parts.cost, "Cost"], [parts.recall, "Recall of each digit"]]) {
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", label);
  }
  parts.neurons.setAttribute("role", "img");
  const part = (title, ...content) => make("div", {}, typeof title === "string" ? make("h3", { textContent: title }) : title, ...content);
  const element = make(
    "section",
    { className: "run" },
    make("h3", {}, make("label", { htmlFor: name, textContent: "Learning rate " }), rate, remove),
    parts.status, parts.now,
    parts.neuronsTitle, parts.neurons,
    make(
      "div",
      { className: "parts" },
      part("Validation images recognised", parts.accuracy),
      part("Cost of the validation images", parts.cost),
      part("Recall of each digit; orange is under a half", parts.recall, parts.lost),
      part("Your drawing, to this network", parts.said, parts.bars),
    ),
    parts.test,
    make("p", { className: "keep" }, parts.save),
    make("p", { className: "command" }, "", parts.shell),
  );
  const column = { ...parts, element, run: null, command: "", header: null, points: [], weights: null, problem: "", goal: 0, told: Promise.resolve() };
  rate.addEventListener("change", () => changeRate(column));
  remove.addEventListener("click", () => act(() => take(column)));
  columns.push(column);
  byId("runs").append(element);
  arrange();
  return column;
}

function arrange() {
  byId("runs").style.setProperty("--runs", columns.length);
  byId("compare").disabled = columns.length === MOST;
  columns.forEach((column) => (column.remove.hidden = columns.length === 1));
  columns.forEach(draw);
}

async function take(column) {
  await endRun(column);
  columns.splice(columns.indexOf(column), 1);
  column.element.remove();
  keep();
  arrange();
}

// Asking the server

function wanted(column) {
  const number = (text) => (/^[0-9]+$/.test(text.trim()) ? Number(text) : text);
  const [dataset, hidden, batch_size, seed, epochs] = ["dataset", "hidden", "batch_size", "seed", "epochs"].map(
    (name) => form.elements[name].value,
  );
  const rate = Number(column.rate.value);
  return {
    dataset,
    hidden: hidden.trim() ? hidden.trim().split(/[\s,]+/).map(number) : [],
    batch_size: number(batch_size),
    seed: number(seed),
    epochs: number(epochs),
    learning_rate: column.rate.value.trim() === "" || Number.isNaN(rate) ? column.rate.value : rate,
  };
}

async function begin(column) {
  if (column.run) return;
  const options = wanted(column);
  const { run, command } = await ask("POST", "runs", options);
  Object.assign(column, { run, command, options, header: null, points: [], weights: null, problem: "" });
  keep();
  draw(column);
  follow(column, run);
}

function change(column, changes) { // one at a time, as a busy server may hear the second of two before the first
  const { run } = column;
  column.told = column.told.catch(() => {}).then(() => {
    if (run && column.run === run) return ask("PATCH", `runs/${run}`, changes);
  });
  return column.told;
}

async function endRun(column) {
  const { run } = column;
  column.asking?.abort();
  Object.assign(column, { run: null, header: null, points: [], weights: null, problem: "", command: "", told: Promise.resolve() });
  draw(column);
  if (run) await ask("DELETE", `runs/${run}`).catch(() => {}); // it may have ended by itself
}

async function act(what) { // one thing at a time, so that a second click waits for the first
  if (busy) return;
  busy = true;
  say("");
  try {
    await what();
  } catch (error) {
    say(error.status ? error.message : "No answer from the server. Is it still running?");
  }
  busy = false;
  showButtons();
}

function goOn(updates, which = columns) {
  updatesAsked += 1;
  return act(async () => {
    for (const column of which) await begin(column); // in their order, as some may have to wait for a place
    const changes = { updates, pace: PACES[byId("pace").value], ...(drawing && { drawing }) };
    for (const column of which) column.goal = updates;
    await Promise.all(which.map((column) => change(column, changes)));
  });
}

function setPace(pace) {
  const place = PACES.indexOf(pace);
  if (place >= 0) byId("pace").value = place;
}

function goes(column) { // or would, if it had its turn, or were compiled
  return column.run && column.goal !== 0 && !["paused", "finished", "failed"].includes(column.header?.state);
}

async function follow(column, run) {
  let version = -1;
  while (column.run === run) {
    try {
      column.asking = new AbortController();
      const { signal } = column.asking;
      const response = await fetch(`runs/${run}/frame?after=${version}&points=${column.points.length}`, { signal });
      if (column.run !== run) return;
      if (response.status === 200) {
        read(column, await response.arrayBuffer());
        if (version < 0 && updatesAsked === 0) setPace(column.header.pace); // found again after a reload
        version = column.header.version;
        column.problem = "";
        if (!document.hidden) await new Promise(requestAnimationFrame);
      } else if (response.status === 202) {
        const { waiting, places } = await response.json();
        column.problem = `Waits: ${places} ${places === 1 ? "run goes" : "runs go"} on at once on this machine, and ${waiting === 1 ? "this is next" : `${waiting - 1} wait before it`}. One that pauses, is finished, or is taken away makes room.`;
      } else if (response.status !== 204) {
        const { error } = await response.json();
        Object.assign(column, { run: null, problem: `${error[0].toUpperCase()}${error.slice(1)}.` });
        keep();
      }
    } catch (error) {
      if (column.run !== run) return;
      if (!(error instanceof TypeError)) throw error; // as fetch throws where there is no answer
      column.problem = "No answer from the server. Is it still running?";
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
    draw(column);
    showButtons();
  }
}

function read(column, frame) {
  const size = new DataView(frame).getUint32(0, true);
  column.header = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, size)));
  column.weights = new Int8Array(frame, 4 + size);
  if (column.header.point === column.points.length) column.points.push(...column.header.points);
}

async function changeRate(column) {
  await act(() => change(column, { learning_rate: wanted(column).learning_rate }));
  keep();
}

// Showing

const LABELS = { hidden: "Hidden layers", batch_size: "Mini-batch", seed: "Seed", epochs: "Epochs", learning_rate: "Learning rate" };

function say(text) { // by the names that the page has for the options
  const named = text.replace(/^(\w+)(\.\d+)?:/, (all, name) => (LABELS[name] ? `${LABELS[name]}:` : all));
  byId("learn-trouble").textContent = named && `${named[0].toUpperCase()}${named.slice(1)}`;
}

const WORDS = {
  compiling: "Compiling the updates for this machine; that takes some seconds, once.",
  running: "Learns",
  paused: "Pauses",
  finished: "Has finished",
  failed: "Has ended",
};

function draw(column) {
  const { header, points, options } = column;
  if (document.body.dataset.view !== "learn" || document.hidden) return;
  const style = colours();
  const images = header?.validation_images ?? 1;
  const perEpoch = header?.updates_in_epoch ?? 1;
  const share = (point) => point[2] / images;
  const status = header ? header.problem || WORDS[header.state] : column.run ? "Begins." : "Not begun.";
  setText(column.status, column.problem || status);
  setText(column.now, header ? progress(header, points) : "");
  const epochs = Math.max(1, header ? header.updates / perEpoch : 1);
  const x = (point) => point[0] / perEpoch;
  plot(column.accuracy, points.map((p) => [x(p), share(p)]), { epochs, top: 1, unit: "%", style });
  const top = Math.max(0.5, ...columns.flatMap((other) => other.points.slice(0, 1).map((point) => point[1])));
  plot(column.cost, points.map((p) => [x(p), p[1]]), { epochs, top, unit: "", style });
  plotRecall(column.recall, points.map((p) => [x(p), p[3]]), { epochs, style, lost: LOST });
  const last = points.at(-1);
  setText(column.lost, last ? lostDigits(points, perEpoch) : "");
  const layer = options?.hidden.length ? "hidden neurons" : "output neurons";
  const shown = header && header.shown < header.neurons ? `, the first ${header.shown} of them` : "";
  setText(column.neuronsTitle, header ? `The ${header.neurons} ${layer}${shown}: their weights` : "Neurons");
  const lit = header?.answer ? header.answer.hidden[0] ?? header.answer.activations : null;
  paintNeurons(column.neurons, column.weights, header?.shown ?? 0, lit, style);
  column.neurons.setAttribute("aria-label", header ? `Weights of ${header.shown} neurons, as pictures` : "No neurons yet");
  showAnswer(column, header?.answer);
  const finished = header?.state === "finished";
  setText(column.test, header?.test
    ? `Test: ${header.test.correct} of ${header.test.total} images, with the network of epoch ${header.best.epoch}, which recognised the most validation images.`
    : "");
  column.save.hidden = !column.run || !header;
  if (column.run) column.save.href = `runs/${column.run}/checkpoint${finished ? "?best=true" : ""}`;
  setText(column.save, finished ? "Download the best epoch's checkpoint" : "Download the checkpoint of this moment");
  column.shell.parentElement.hidden = !header?.engine_name;
  const unlike = header?.unlike_train;
  setText(column.shell, unlike || !header?.engine_name ? "" : `${column.command} --engine ${header.engine_name}`);
  column.shell.previousSibling.data = unlike
    ? `No command repeats this run: ${unlike}.`
    : "The same network, bit for bit, from a shell: ";
}

function progress(header, points) {
  const { updates, updates_in_epoch, epochs, speed, state, learning_rate, validation_images } = header;
  const within = updates - epochs * updates_in_epoch;
  const last = points.at(-1);
  const reached = last ? `${(100 * last[2] / validation_images).toFixed(1)} % recognised, cost ${last[1].toFixed(3)}. ` : "";
  const pace = state === "running" && speed ? `${Math.round(speed).toLocaleString("en")} a second, ` : "";
  return `${reached}Update ${updates.toLocaleString("en")}, ${pace}epoch ${epochs + (within ? 1 : 0)}, learning rate ${learning_rate}.`;
}

function lostDigits(points, perEpoch) {
  const [lost, unknown, found] = [[], [], []];
  for (let digit = 0; digit < 10; digit += 1) {
    const known = points.map((point) => point[3][digit] >= LOST);
    const first = known.indexOf(true); // before that it has never been known
    if (first < 0) unknown.push(digit);
    else if (!known.at(-1)) lost.push(digit);
    else if (known.indexOf(false, first) > 0) {
      const since = points[known.lastIndexOf(false) + 1][0] / perEpoch;
      found.push(`${digit} (since epoch ${since.toFixed(1)})`);
    }
  }
  const parts = [["Not known yet", unknown], ["Lost", lost], ["Lost and found again", found]];
  const said = parts.filter(([, digits]) => digits.length).map(([what, digits]) => `${what}: ${digits.join(", ")}.`);
  return said.join(" ") || "Every digit is known.";
}

function showAnswer(column, answer) {
  setText(column.said, answer ? `${answer.digit}, second ${answer.runner_up}` : drawing ? "" : "Draw a digit on the paper.");
  [...column.bars.children].forEach((row, digit) => {
    const activation = answer?.activations[digit];
    row.style.setProperty("--activation", activation ?? 0);
    row.classList.toggle("answer", answer?.digit === digit);
    setText(row.lastChild, activation?.toFixed(2) ?? "");
  });
}

function setText(element, text) { // the same text again would be read aloud again
  if (element.textContent !== text) element.textContent = text;
}

function showButtons() {
  const begun = columns.some((column) => column.run);
  const running = columns.some(goes);
  const done = begun && columns.every((column) => !column.run || ["finished", "failed"].includes(column.header?.state));
  byId("start").textContent = running ? "Pause" : begun ? "Go on" : "Start";
  byId("start").disabled = done;
  byId("over").disabled = !begun && !columns.some((column) => column.points.length);
  for (const button of byId("steps").children) button.disabled = running || done;
  for (const field of form.elements) field.disabled = begun;
  const pace = PACES[byId("pace").value];
  byId("pace-said").textContent = pace ? `${pace.toLocaleString("en")} update${pace === 1 ? "" : "s"} a second` : "as fast as it goes";
}

// Keeping the runs over a reload

function keep() {
  const kept = columns.map(({ run, command, options, rate }) => ({ run, command, options, rate: rate.value }));
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  if (!kept.length) addColumn("3");
  for (const { run, command, options, rate } of kept) {
    const column = addColumn(rate);
    if (!run) continue;
    for (const name of ["hidden", "batch_size", "seed", "epochs"]) {
      form.elements[name].value = name === "hidden" ? options.hidden.join(" ") : options[name];
    }
    if (options.dataset === "mnist") offerMnist();
    form.elements.dataset.value = options.dataset;
    Object.assign(column, { run, command, options, goal: "end" }); // it may pause, which its frames tell
    follow(column, run);
  }
}

function offerMnist() {
  const { options } = form.elements.dataset;
  if (options.length === 1) options.add(new Option("MNIST", "mnist"));
}

export function runsNow() { // for the view that steps through: the networks of this moment
  return columns.filter(({ run, header }) => run && header).map(({ run, header }) => ({ run, header }));
}

export function refresh() {
  ask("GET", "runs") // which gets the server's processes ready, too
    .then(({ datasets }) => datasets.includes("mnist") && offerMnist())
    .catch(() => say("No answer from the server. Is it still running?"));
  columns.forEach(draw);
  showButtons();
}

byId("start").addEventListener("click", () => goOn(byId("start").textContent === "Pause" ? 0 : "end"));
byId("over").addEventListener("click", () => act(async () => {
  for (const column of columns) await endRun(column);
  keep();
}));
byId("steps").addEventListener("click", (event) => {
  const { updates } = event.target.dataset;
  if (updates) goOn(updates === "epoch" ? updates : Number(updates));
});
byId("pace").addEventListener("input", () => {
  showButtons();
  for (const column of columns) change(column, { pace: PACES[byId("pace").value] }).catch(() => {});
});
byId("compare").addEventListener("click", () => {
  const rates = columns.map(({ rate }) => Number(rate.value));
  const next = [30, 0.3, 3].find((rate) => !rates.includes(rate)) ?? 1;
  const going = columns.some((column) => goes(column) && column.goal === "end");
  const column = addColumn(String(next));
  if (going) goOn("end", [column]);
  showButtons();
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => columns.forEach(draw));
document.addEventListener("visibilitychange", () => columns.forEach(draw));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => columns.forEach(draw));
onAnswer((answer) => {
  drawing = answer?.pixels ?? null;
  for (const column of columns) change(column, { drawing: drawing ?? "none" }).catch(() => {});
});
restore();
showButtons();

// The paper, which all views share. It sends the drawing as it grows, one request at a time, and tells the answers.

import { byId, square } from "./common.js";

const PEN = 0.085; // width of a stroke, of the paper's side
const SENT = 224; // side of the picture that is sent, in pixels
const TIMEOUT = 10_000; // milliseconds for an answer
const PROMPT = 100; // milliseconds; a server that takes longer is busy, and gets a rest for as long as it took,
const REST = 1000; // but no longer than this

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
  tell(page.digits[i]);
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

export function isEmpty() {
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
  tell(null);
  changed();
}

byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", () => startOver(null));
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select")) return;
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
      tell(page?.digits[chosen] ?? (reply.activations ? reply : null));
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

// Telling

const listeners = [];

export function onAnswer(listener) {
  listeners.push(listener);
}

function tell(answer) {
  for (const listener of listeners) listener(answer);
}

export function complain(text) {
  byId("trouble").textContent = text;
}

addEventListener("resize", repaint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
repaint();

// What the views share.

export const byId = (id) => document.getElementById(id);

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export function square(side) {
  return make("canvas", { width: side, height: side });
}

export function colours() { // of positive and negative weights, of lines and text: "r g b" or what CSS takes
  const style = getComputedStyle(document.documentElement);
  const [positive, negative] = ["--for", "--against"].map((name) => style.getPropertyValue(name).trim().split(" "));
  const [ink, faint, line, sheet] = ["--ink", "--faint", "--line", "--sheet"].map((name) => style.getPropertyValue(name));
  return { positive, negative, ink, faint, line, sheet };
}

// A picture of 784 weights: orange above 0, blue below, as strong as they are large; `full` is the strongest colour.
export function paintWeights(canvas, weights, full, { positive, negative }) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(28, 28);
  weights.forEach((weight, j) => {
    pixels.data.set([...(weight < 0 ? negative : positive), (255 * Math.abs(weight)) / full], 4 * j);
  });
  context.putImageData(pixels, 0, 0);
}

// A picture of 784 pixels, 0 paper to 255 ink, white on black as MNIST's.
export function paintPixels(canvas, pixels) {
  const context = canvas.getContext("2d");
  const shades = context.createImageData(28, 28);
  pixels.forEach((grey, i) => shades.data.set([grey, grey, grey, 255], 4 * i));
  context.putImageData(shades, 0, 0);
}

export function signed(number, digits = 1) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(digits)}`;
}

// Arrow keys go from one button of a group to the next.
export function step(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")];
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

// A request with JSON; what it answers, or an Error whose message is the server's.
export async function ask(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  const answer = text ? JSON.parse(text) : {};
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

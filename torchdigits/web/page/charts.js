// Charts of a run, and its neurons, on canvases.

const MARGIN = { left: 3.8, right: 1, top: 0.7, bottom: 1.9 }; // in heights of a letter

function prepared(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = devicePixelRatio;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const { fontSize, fontFamily } = getComputedStyle(canvas);
  const letter = 0.78 * parseFloat(fontSize);
  context.font = `${letter}px ${fontFamily}`;
  return { context, width, height, letter };
}

function axes(context, { width, height, letter, epochs, style }) {
  const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((side) => MARGIN[side] * letter);
  const inner = { x: left, y: top, width: width - left - right, height: height - top - bottom };
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].find((size) => epochs / size <= 5) ?? 1000;
  context.fillStyle = style.faint;
  context.strokeStyle = style.line;
  context.textAlign = "center";
  context.textBaseline = "top";
  for (let epoch = 0; epoch <= epochs + 1e-9; epoch += step) {
    const x = inner.x + (inner.width * epoch) / epochs;
    context.fillText(String(+epoch.toFixed(1)), x, height - bottom + 5);
  }
  return inner;
}

// A line through points [epoch, value], value from 0 to `top`.
export function plot(canvas, points, { epochs, top, unit, style }) {
  const { context, width, height, letter } = prepared(canvas);
  if (!width) return;
  const inner = axes(context, { width, height, letter, epochs, style });
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const part of [0, 0.5, 1]) {
    const y = inner.y + inner.height * (1 - part);
    context.fillText(unit === "%" ? `${100 * part} %` : (top * part).toFixed(1), inner.x - 6, y);
    context.beginPath();
    context.moveTo(inner.x, y);
    context.lineTo(inner.x + inner.width, y);
    context.stroke();
  }
  context.beginPath();
  let before = -1;
  points.forEach(([epoch, value], i) => {
    const x = inner.x + (inner.width * epoch) / epochs;
    if (x - before < 0.5 && i < points.length - 1) return; // nobody could tell them apart
    before = x;
    context.lineTo(x, inner.y + inner.height * (1 - Math.min(1, value / top)));
  });
  context.strokeStyle = `rgb(${style.negative.join(" ")})`;
  context.lineWidth = 2;
  context.stroke();
  if (points.length) {
    const [epoch, value] = points.at(-1);
    context.beginPath();
    context.arc(inner.x + (inner.width * epoch) / epochs, inner.y + inner.height * (1 - Math.min(1, value / top)), 3.5, 0, 7);
    context.fillStyle = context.strokeStyle;
    context.fill();
  }
}

// A row for each digit: the darker, the more of its images are recognised; orange where it is lost.
export function plotRecall(canvas, points, { epochs, style, lost }) {
  const { context, width, height, letter } = prepared(canvas);
  if (!width) return;
  const inner = axes(context, { width, height, letter, epochs, style });
  const row = inner.height / 10;
  const last = points.at(-1)?.[1];
  context.textBaseline = "middle";
  for (let digit = 0; digit < 10; digit += 1) {
    const y = inner.y + digit * row;
    context.textAlign = "right";
    context.fillStyle = style.faint;
    context.fillText(String(digit), inner.x - 6, y + row / 2);
    points.forEach(([epoch, recall], i) => {
      const x = inner.x + (inner.width * epoch) / epochs;
      const end = i + 1 < points.length ? inner.x + (inner.width * points[i + 1][0]) / epochs : x + 2;
      if (end - x < 0.25 && i + 1 < points.length) return;
      const share = recall[digit];
      context.fillStyle = `rgb(${(share < lost ? style.positive : style.negative).join(" ")})`;
      context.globalAlpha = share < lost ? 0.35 + 0.65 * (1 - share / lost) : 0.1 + 0.9 * ((share - lost) / (1 - lost)) ** 2;
      context.fillRect(x, y + 0.5, Math.min(end, inner.x + inner.width) - x + 0.5, row - 1);
    });
    context.globalAlpha = 1;
  }
  if (last) canvas.setAttribute("aria-label", `Recall of each digit: ${last.map((share, digit) => `${digit}: ${Math.round(100 * share)} %`).join(", ")}`);
}

const picture = document.createElement("canvas"); // the neurons at a pixel for each weight

// The weights of each neuron as a picture; a frame as strong as its activation, if there are any.
export function paintNeurons(canvas, weights, count, activations, style) {
  const columns = Math.max(1, Math.min(count, Math.floor(canvas.clientWidth / (canvas.clientWidth < 420 ? 44 : 56)) || 1));
  const rows = Math.ceil(count / columns);
  const side = Math.floor(canvas.clientWidth / columns);
  canvas.style.height = count ? `${rows * side}px` : "";
  const { context, width } = prepared(canvas);
  if (!count || !width) return;
  picture.width = 28;
  picture.height = 28 * count;
  const inside = picture.getContext("2d");
  const pixels = inside.createImageData(28, 28 * count);
  const [positive, negative] = [style.positive, style.negative].map((colour) => colour.map(Number));
  for (let i = 0; i < 784 * count; i += 1) {
    const weight = weights[i];
    const colour = weight < 0 ? negative : positive;
    pixels.data[4 * i] = colour[0];
    pixels.data[4 * i + 1] = colour[1];
    pixels.data[4 * i + 2] = colour[2];
    pixels.data[4 * i + 3] = 2 * Math.abs(weight);
  }
  inside.putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  for (let i = 0; i < count; i += 1) {
    const [x, y] = [(i % columns) * side + 2, Math.floor(i / columns) * side + 2];
    context.fillStyle = style.sheet;
    context.fillRect(x, y, side - 4, side - 4);
    context.drawImage(picture, 0, 28 * i, 28, 28, x, y, side - 4, side - 4);
    context.lineWidth = 1;
    context.strokeStyle = style.line;
    context.strokeRect(x, y, side - 4, side - 4);
    if (activations) {
      context.globalAlpha = activations[i];
      context.lineWidth = 3;
      context.strokeStyle = style.ink;
      context.strokeRect(x, y, side - 4, side - 4);
      context.globalAlpha = 1;
    }
  }
}

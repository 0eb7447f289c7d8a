// Which view is shown. Each has an address of its own; going from one to the other keeps the drawing and the runs.

import "./read.js";
import { byId } from "./common.js";
import { refresh as refreshLearn } from "./learn.js";
import { refresh as refreshSteps } from "./step.js";

const views = { "/": "read", "/learn": "learn", "/step-through": "step-through" };
const titles = { read: "read a digit", learn: "watch it learn", "step-through": "back-propagation, step by step" };

function show() {
  const view = views[location.pathname] ?? "read";
  document.body.dataset.view = view;
  document.title = `torchdigits: ${titles[view]}`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  dispatchEvent(new Event("resize")); // what is shown now has another size
  if (view === "learn") refreshLearn();
  if (view === "step-through") refreshSteps();
}

document.querySelector("nav").addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show();
});
addEventListener("popstate", show);
byId("origin").textContent = location.origin;
show();

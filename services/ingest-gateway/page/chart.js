// A line of the last hour. Where a sample is missing, the line has a gap.

import { h } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 48;

function svg(name, attributes) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/**
 * Draws points `[milliseconds, number or null]` between two moments. `describe` puts a number into words; the last, the largest
 * and the one under the pointer are told as text.
 */
export function line(label, points, from, to, every, describe) {
  const known = points.filter(([, value]) => value !== null);
  const most = Math.max(...known.map(([, value]) => value), 0);
  const x = (at) => ((at - from) / (to - from)) * WIDTH;
  const y = (value) => HEIGHT - 2 - (most > 0 ? (value / most) * (HEIGHT - 6) : 0);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 2, y2: HEIGHT - 2, class: "axis" }));
  for (const part of parts(points, every)) {
    const path = part.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    drawing.append(svg("polyline", { points: path, class: "line" }));
  }
  const marker = svg("line", { y1: 0, y2: HEIGHT, class: "marker", visibility: "hidden" });
  drawing.append(marker);
  const last = known.length ? describe(known[known.length - 1][1]) : "no samples yet";
  const told = h("span", {}, last);
  const box = h("figure", { class: "chart", role: "img", "aria-label": `${label}, last hour: now ${last}, at most ${describe(most)}` },
    h("figcaption", {}, h("span", {}, label), told), drawing);
  drawing.addEventListener("pointermove", (event) => {
    const area = drawing.getBoundingClientRect();
    const at = from + ((event.clientX - area.left) / area.width) * (to - from);
    const nearest = known.reduce((best, point) =>
      (!best || Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), null);
    if (!nearest) return;
    marker.setAttribute("x1", x(nearest[0]));
    marker.setAttribute("x2", x(nearest[0]));
    marker.setAttribute("visibility", "visible");
    told.textContent = `${describe(nearest[1])} at ${new Date(nearest[0]).toLocaleTimeString()}`;
  });
  drawing.addEventListener("pointerleave", () => {
    marker.setAttribute("visibility", "hidden");
    told.textContent = last;
  });
  return box;
}

/** Runs of samples that follow each other. */
function parts(points, every) {
  const runs = [];
  let run = [];
  let before = null;
  for (const [at, value] of points) {
    if (value === null || (before !== null && at - before > 2.5 * every)) {
      if (run.length) runs.push(run);
      run = [];
    }
    if (value !== null) run.push([at, value]);
    before = at;
  }
  if (run.length) runs.push(run);
  return runs;
}

// The bar that stands for a probability, on both pages.

/** A bar of the probability with a mark at the threshold; drawn, because the page allows no style attributes. */
export function bar(value, threshold) {
  const make = (kind, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [key, one] of Object.entries(attributes)) made.setAttribute(key, one);
    return made;
  };
  const drawing = make("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(make("rect", { class: "empty", y: 2, width: 100, height: 6 }), make("rect", { class: "fill", y: 2, width: 100 * value, height: 6 }));
  for (const part of threshold == null ? [] : ["halo", "threshold"]) {
    drawing.append(make("line", { class: part, x1: 100 * threshold, x2: 100 * threshold, y1: 0, y2: 10 }));
  }
  const frame = document.createElement("div");
  frame.className = "bar";
  frame.append(drawing);
  return frame;
}

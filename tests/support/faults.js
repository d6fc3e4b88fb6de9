// What is wrong with the page that is open in a window of so many pixels: too wide, clipped, overprinted, empty.
(width => {
  const found = [];
  const box = e => e.getBoundingClientRect();
  const seen = e => box(e).width > 0 && box(e).height > 0;
  const name = e => `${e.tagName.toLowerCase()} "${e.textContent.trim().slice(0, 40)}"`;
  const scrolls = e => {
    for (let p = e.parentElement; p; p = p.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(p).overflowX)) return true;
    }
    return false;
  };
  const across = document.documentElement.scrollWidth;
  if (across > width) found.push(`the page is ${across} wide`);
  for (const e of document.body.querySelectorAll("*")) {
    if (!seen(e)) continue;
    if (box(e).right > width + 1 && !scrolls(e) && !e.closest("svg *")) found.push("wider than the window: " + name(e));
    const hides = getComputedStyle(e).overflowX === "hidden" && e.textContent.trim();
    if (hides && e.scrollWidth > e.clientWidth + 1) found.push("clipped: " + name(e));
  }
  for (const image of document.images) if (seen(image) && !image.naturalWidth) found.push("no picture: " + image.alt);
  for (const svg of document.querySelectorAll("svg")) {
    if (!seen(svg)) continue;
    const around = box(svg);
    const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim() && seen(t));
    for (const text of texts) {
      const b = box(text);
      const inside = b.left >= around.left - 1 && b.right <= around.right + 1
        && b.top >= around.top - 1 && b.bottom <= around.bottom + 1;
      if (!inside) found.push("clipped in a chart: " + name(text));
    }
    texts.forEach((one, i) => texts.slice(i + 1).forEach(other => {
      const a = box(one), b = box(other);
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 3) found.push(`one over the other: ${name(one)} and ${name(other)}`);
    }));
    const marks = [...svg.querySelectorAll("path, circle, rect, line, polyline, polygon, image, use")];
    if (!marks.some(m => !m.closest("defs") && !m.classList.contains("frame"))) {
      found.push("an empty chart: " + name(svg.parentElement));
    }
  }
  return found;
})

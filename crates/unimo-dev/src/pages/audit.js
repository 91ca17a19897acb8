// What is wrong with how a page looks, as a list of sentences. Run in the page.
(() => {
  "use strict";
  const found = [];
  const say = (what) => { if (found.length < 40 && !found.includes(what)) found.push(what); };
  const shown = (e) => {
    if (e.checkVisibility && !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.height > 0;
  };
  const named = (e) => {
    const text = (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${e.tagName.toLowerCase()}${e.getAttribute("class") ? "." + e.getAttribute("class").trim().replace(/\s+/g, ".") : ""}> "${text}"`;
  };
  const wide = document.documentElement.clientWidth;
  // Nothing is wider than the window, but for what scrolls by itself.
  const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (over > 1) {
    const scrolls = (e) => { for (let p = e.parentElement; p; p = p.parentElement) if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; return false; };
    const guilty = [...document.body.querySelectorAll("*")].filter((e) => shown(e) && e.getBoundingClientRect().right > wide + 1 && !scrolls(e));
    say(`the page is ${over} px wider than the window: ${guilty.slice(0, 3).map(named).join(", ")}`);
  }
  // Text stands out from what is behind it (WCAG 2.1, 1.4.3).
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = "#000"; canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const over_ = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (e) => {
    const layers = [];
    for (let p = e; p; p = p.parentElement) {
      const style = getComputedStyle(p);
      const back = colour(style.backgroundColor);
      if (back[3] > 0) layers.push(back);
      if (back[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over_(top, below), [255, 255, 255, 1]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || seen.has(e) || e.closest("script, style, title") || !shown(e)) continue;
    seen.add(e);
    const svg = e.closest("svg");
    const style = getComputedStyle(e);
    const back = behind(svg || e);
    if (!back || (svg && e.closest(".plot-cell"))) continue;
    const ink = over_(colour(svg ? style.fill : style.color), back);
    const [hi, lo] = [light(ink), light(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    const ratio = (hi + 0.05) / (lo + 0.05);
    if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)}: ${named(e)}`);
    if (!svg && size < 11.5) say(`text of ${size} px: ${named(e)}`);
    // Cut without a way to see the rest.
    if (!svg && ["hidden", "clip"].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1) say(`cut: ${named(e)}`);
  }
  // In a drawing no text lies on another, none leaves the drawing, none is too small to read.
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg) || svg.parentElement.closest("svg")) continue;
    const frame = svg.getBoundingClientRect();
    const labels = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim() && shown(t));
    const straight = labels.filter((t) => !(t.getAttribute("transform") || "").includes("rotate"));
    const boxes = straight.map((t) => t.getBoundingClientRect());
    straight.forEach((t, i) => {
      const a = boxes[i];
      for (let j = i + 1; j < straight.length; j++) {
        const b = boxes[j];
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 1.5 && y > 4) say(`in "${(svg.getAttribute("aria-label") || "").slice(0, 40)}" ${named(t)} lies on ${named(straight[j])}`);
      }
    });
    for (const t of labels) {
      const box = t.getBoundingClientRect();
      const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (out > 4) say(`in "${(svg.getAttribute("aria-label") || "").slice(0, 40)}" ${named(t)} leaves the drawing by ${out.toFixed(0)} px`);
      const scale = frame.width / (svg.viewBox.baseVal.width || frame.width), size = parseFloat(getComputedStyle(t).fontSize) * scale;
      if (size < 8.5) say(`in "${(svg.getAttribute("aria-label") || "").slice(0, 40)}" text of ${size.toFixed(1)} px: ${named(t)}`);
    }
  }
  for (const image of document.images) if (image.complete && image.naturalWidth === 0) say(`a picture that cannot be shown: ${image.alt || image.src.slice(0, 40)}`);
  for (const e of document.querySelectorAll("img:not([alt])")) say(`a picture without a description: ${e.src.slice(0, 40)}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) say(`the id ${id} is there twice`);
  for (const a of document.querySelectorAll("a[href^='#']")) if (!document.getElementById(decodeURIComponent(a.getAttribute("href").slice(1)))) say(`a link to nothing: ${a.getAttribute("href")}`);
  return found;
})()

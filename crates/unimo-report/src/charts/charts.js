(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const number = (v) => {
    const size = Math.abs(v);
    if (v === 0) return "0";
    if (size < 1e-3 || size >= 1e7) return v.toExponential(2).replace(/\.?0+e/, "e").replace("+", "");
    if (size >= 1000 || Number.isInteger(v)) return Math.round(v).toLocaleString("en-GB");
    return v.toFixed(Math.min(5, Math.max(1, 2 - Math.floor(Math.log10(size)))));
  };
  const nearest = (xs, x) => {
    let lo = 0, hi = xs.length - 1;
    while (hi - lo > 1) {
      const mid = (lo + hi) >> 1;
      if (xs[mid] < x) lo = mid; else hi = mid;
    }
    return x - xs[lo] <= xs[hi] - x ? lo : hi;
  };
  for (const svg of document.querySelectorAll("svg[data-plot]")) {
    const plot = JSON.parse(svg.dataset.plot);
    const [left, right, top, bottom] = plot.frame;
    const [x0, x1] = plot.x, [y0, y1] = plot.y;
    const series = plot.series.filter((s) => s.x.length > 0);
    const format = (v) => v === null ? "–" : plot.percent ? (100 * v).toFixed(Math.abs(v) < 0.01 && v !== 0 ? 2 : 1) + " %" : number(v);
    const px = (x) => left + (x - x0) / (x1 - x0) * (right - left);
    const py = (y) => bottom - (plot.log ? Math.log(y / y0) / Math.log(y1 / y0) : (y - y0) / (y1 - y0)) * (bottom - top);
    const figure = svg.closest("figure"), cursor = svg.querySelector(".plot-cursor");
    let tip = null, at = null;
    const hide = () => { cursor.replaceChildren(); if (tip) tip.remove(); tip = null; at = null; };
    const show = (x) => {
      const longest = series.reduce((a, b) => b.x.length > a.x.length ? b : a);
      at = longest.x[nearest(longest.x, x)];
      cursor.replaceChildren();
      const hair = document.createElementNS(NS, "path");
      hair.setAttribute("class", "plot-hair");
      hair.setAttribute("d", `M${px(at)} ${top}V${bottom}`);
      cursor.append(hair);
      if (!tip) { tip = document.createElement("div"); tip.className = "plot-tip"; figure.append(tip); }
      const head = document.createElement("div");
      head.textContent = `${plot.label} ${number(at)}`;
      const rows = [head];
      for (const s of series) {
        const i = nearest(s.x, at), y = s.y[i], row = document.createElement("div"), key = document.createElement("span"), value = document.createElement("b");
        key.className = "plot-key " + s.class;
        value.textContent = format(y);
        row.append(key, series.length > 1 ? s.name + " " : "", value);
        if (s.raw) {
          const raw = document.createElement("small");
          raw.textContent = ` (logged ${format(s.raw[i])})`;
          row.append(raw);
        }
        rows.push(row);
        if (y !== null && py(y) >= top - 1 && py(y) <= bottom + 1) {
          const dot = document.createElementNS(NS, "circle");
          dot.setAttribute("class", "plot-dot " + s.class);
          dot.setAttribute("r", "4");
          dot.setAttribute("cx", px(s.x[i]));
          dot.setAttribute("cy", py(y));
          cursor.append(dot);
        }
      }
      tip.replaceChildren(...rows);
      const box = svg.getBoundingClientRect(), own = figure.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
      const hairAt = box.left - own.left + px(at) * scale;
      tip.style.left = (hairAt + 14 + tip.offsetWidth > own.width ? Math.max(0, hairAt - 14 - tip.offsetWidth) : hairAt + 14) + "px";
      tip.style.top = box.top - own.top + top * scale + 6 + "px";
    };
    if (series.length === 0) continue;
    const point = (event) => {
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      show(x0 + (Math.min(right, Math.max(left, x)) - left) / (right - left) * (x1 - x0));
    };
    svg.addEventListener("pointermove", point);
    // A finger that taps does not move, and leaves as soon as it is lifted: what it asked for stays until the next tap.
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
    document.addEventListener("pointerdown", (event) => { if (!svg.contains(event.target)) hide(); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const xs = series.reduce((a, b) => b.x.length > a.x.length ? b : a).x;
      const index = at === null ? xs.length - 1 : nearest(xs, at) + move * Math.max(1, Math.round(xs.length / 40));
      show(xs[Math.min(xs.length - 1, Math.max(0, index))]);
    });
  }
  // Bars and cells: what a pointer, a finger or the arrow keys are at is told beside it.
  for (const svg of document.querySelectorAll("svg[data-cells]")) {
    const cells = [...svg.querySelectorAll("g")].filter((g) => g.querySelector(":scope > title"));
    const across = Number(svg.dataset.cells) || cells.length;
    const figure = svg.closest("figure");
    if (cells.length === 0) continue;
    let tip = null, at = null;
    const hide = () => { if (at !== null) cells[at].classList.remove("plot-at"); if (tip) tip.remove(); tip = null; at = null; };
    const show = (index) => {
      if (index === at) return;
      hide();
      at = index;
      const cell = cells[at];
      cell.classList.add("plot-at");
      tip = document.createElement("div");
      tip.className = "plot-tip";
      const text = document.createElement("b");
      text.textContent = cell.querySelector("title").textContent;
      tip.append(text);
      figure.append(tip);
      if (document.activeElement === svg) cell.scrollIntoView({ block: "nearest", inline: "nearest" });
      const box = cell.querySelector("rect").getBoundingClientRect(), own = figure.getBoundingClientRect();
      const right = box.right - own.left + 10;
      tip.style.left = (right + tip.offsetWidth > own.width ? Math.max(0, box.left - own.left - 10 - tip.offsetWidth) : right) + "px";
      tip.style.top = Math.max(0, box.top - own.top - 6) + "px";
    };
    const point = (event) => {
      const index = cells.indexOf(event.target.closest("g"));
      if (index >= 0) show(index); else hide();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
    document.addEventListener("pointerdown", (event) => { if (!svg.contains(event.target)) hide(); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
      if (!move) return;
      event.preventDefault();
      show(at === null ? (move < 0 ? cells.length - 1 : 0) : Math.min(cells.length - 1, Math.max(0, at + move)));
    });
  }
})();

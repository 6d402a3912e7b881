// One chart of the page: its legend, its buttons, reading it by pointer and by keys.

// What is large is packed in the page: gzip, in base64.
function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

let library = null; // that draws; unpacked when a chart is first to be drawn
async function loaded() {
  document.head.append(make("script", {}, await unpacked("vega")));
  return window.vegaEmbed;
}

class Figure {
  constructor(element, { spec, legend }) {
    Object.assign(this, { element, spec, legend, id: element.id, zoom: new Map(), points: [], at: null });
    this.plot = $(".plot", element);
    this.drawn = null; // what is shown now, as text; null: the picture of the page
    this.busy = null;
    this.tip = make("div", { class: "tip", hidden: true });
    this.ring = make("div", { class: "ring", hidden: true });
    this.box = make("div", { class: "box", hidden: true });
    this.readout = make("p", { class: "hidden", role: "status" });
    this.plot.append(this.tip, this.ring, this.box);
    this.plot.after(this.readout);
    this.scales = new Set(this.units().flatMap((unit) => ["x", "y"].map((channel) => scaleKey(channel, unit))).filter(Boolean));
    this.buildLegend();
    this.buildTools();
    this.listen();
  }

  units() {
    return (inner(this.spec) ?? [this.spec]).flatMap(unitsOf);
  }

  hidden(key) {
    return state.hide.has(`${this.id}.${key}`);
  }

  buildLegend() {
    const used = new Set(this.units().flatMap(layersOf).flatMap((layer) => layer.loadlib.keys));
    this.keys = $$(".legend li", this.element).map((item, key) => {
      if (!used.has(key)) return null;
      const button = make("button", { type: "button", "aria-pressed": "true",
        onclick: () => {
          const name = `${this.id}.${key}`;
          if (!state.hide.delete(name)) state.hide.add(name);
          commit();
        } }, ...item.childNodes);
      item.append(button);
      return button;
    });
  }

  buildTools() {
    const tool = (text, act, more = {}) => make("button", { type: "button", class: "plain", onclick: act, ...more }, text);
    this.tools = {
      nearer: tool("Zoom in", () => this.scaleBy(0.5)),
      farther: tool("Zoom out", () => this.scaleBy(2), { disabled: true }),
      before: tool("←", () => this.panBy(-0.25), { "aria-label": "Move left", disabled: true }),
      after: tool("→", () => this.panBy(0.25), { "aria-label": "Move right", disabled: true }),
      whole: tool("Whole chart", () => this.showWhole(), { disabled: true }),
    };
    const bar = make("div", { class: "tools", role: "group", "aria-label": `Chart: ${$("h3", this.element).textContent}` });
    if (this.scales.size) bar.append(...Object.values(this.tools));
    bar.append(
      tool("SVG", () => save(`${this.id}.svg`, "image/svg+xml", this.asSvg()), { "aria-label": "Download as SVG" }),
      tool("CSV", () => save(`${this.id}.csv`, "text/csv", this.asTable(",")), { "aria-label": "Download the data as CSV" }),
      tool("Copy data", (event) => copy(this.asTable("\t"), event.target)),
    );
    $("details.data", this.element).before(bar);
  }

  // — drawing ——————————————————————————————————————————————————————————————————————————

  wanted(groups) {
    const hidden = this.legend.map((_, key) => this.hidden(key));
    return JSON.stringify([[...groups], hidden, [...this.zoom]]);
  }

  showLegend() {
    this.keys.forEach((button, key) => button?.setAttribute("aria-pressed", String(!this.hidden(key))));
  }

  stale() {
    const plain = !narrowed() && !this.zoom.size && !this.legend.some((_, key) => this.hidden(key));
    return this.drawn === null ? !plain : this.drawn !== this.wanted(chosenGroups());
  }

  // One drawing at a time; what was chosen meanwhile is drawn after it.
  draw() {
    this.busy ??= this.redraw().finally(() => (this.busy = null));
    return this.busy;
  }

  async redraw() {
    for (let groups = chosenGroups(); this.drawn !== this.wanted(groups); groups = chosenGroups()) {
      const now = this.wanted(groups);
      const spec = shaped(this, groups);
      const embed = await (library ??= loaded());
      const old = $(":scope > svg, :scope > .empty", this.plot);
      let made = make("p", { class: "empty" }, "No part of this chart is of the chosen groups.");
      this.view?.finalize();
      this.view = null;
      this.points = [];
      if (spec) {
        const host = make("div");
        const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: false, hover: false };
        this.view = (await embed(host, spec, options)).view;
        made = $("svg", host);
        this.adopt(made);
        this.points = pointsOf(this.view);
        this.plots = plotsOf(this.view, spec);
      }
      old.replaceWith(made);
      this.drawn = now;
      this.element.dataset.drawn = "";
    }
    this.leave();
  }

  // The new picture takes the name and the size of the old one: nothing below it moves.
  adopt(svg) {
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.removeAttribute("class");
    for (const part of svg.querySelectorAll("[role], [aria-roledescription], [aria-hidden]")) {
      for (const name of ["role", "aria-roledescription", "aria-hidden"]) part.removeAttribute(name);
    }
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-labelledby", `${this.id}-t ${this.id}-d`);
    this.words ??= $$("title, desc", this.plot).map((word) => word.cloneNode(true));
    svg.prepend(...this.words.map((word) => word.cloneNode(true)));
  }

  // — zoom ——————————————————————————————————————————————————————————————————————————————

  change(change) {
    for (const key of this.scales) {
      const [channel, type] = key.split(" ");
      const whole = JSON.parse(key.slice(channel.length + type.length + 2));
      const log = type === "log";
      const [low, high] = (this.zoom.get(key) ?? whole).map((v) => (log ? Math.log(v) : v));
      const limits = whole.map((v) => (log ? Math.log(v) : v));
      const to = change(channel, low, high, key);
      if (!to) continue;
      const span = Math.min(to[1] - to[0], limits[1] - limits[0]);
      const start = Math.min(Math.max(to[0], limits[0]), limits[1] - span);
      if (span >= (limits[1] - limits[0]) * 0.999) this.zoom.delete(key);
      else this.zoom.set(key, [start, start + span].map((v) => (log ? Math.exp(v) : v)));
    }
    for (const name of ["farther", "before", "after", "whole"]) this.tools[name].disabled = !this.zoom.size;
    return this.draw();
  }

  scaleBy(factor) {
    return this.change((channel, low, high) => {
      const half = ((high - low) * factor) / 2;
      return channel === "x" ? [(low + high) / 2 - half, (low + high) / 2 + half] : null;
    });
  }

  panBy(share) {
    return this.change((channel, low, high) => (channel === "x" ? [low + (high - low) * share, high + (high - low) * share] : null));
  }

  showWhole() {
    this.zoom.clear();
    this.plot.focus({ preventScroll: true }); // its button goes
    return this.change(() => null);
  }

  // A box drawn over a plot becomes the whole of it, and of all plots on the same axes.
  zoomTo(plot, from, to) {
    return this.change((channel, low, high, key) => {
      if (key !== scaleKey(channel, this.units()[plot.unit])) return null;
      const i = channel === "x" ? 0 : 1;
      const size = channel === "x" ? plot.width : plot.height;
      if (Math.abs(to[i] - from[i]) < (channel === "x" ? 12 : 24)) return null; // a line, not a box
      let ends = [from[i], to[i]].map((at) => Math.min(1, Math.max(0, (at - plot.at[i]) / size))).sort((a, b) => a - b);
      if (ends[1] - ends[0] < 0.01) return null;
      if (channel === "y") ends = [1 - ends[1], 1 - ends[0]];
      return ends.map((share) => low + (high - low) * share);
    });
  }

  // — reading ———————————————————————————————————————————————————————————————————————————

  svg() {
    return $(":scope > svg", this.plot);
  }

  place(event) {
    const box = this.svg().getBoundingClientRect();
    const scale = Number(this.svg().getAttribute("width")) / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  listen() {
    const plot = this.plot;
    const wake = () => this.drawn === null && this.draw();
    for (const name of ["pointerenter", "focus", "touchstart"]) plot.addEventListener(name, wake, { passive: true });
    plot.setAttribute("aria-describedby", "how-to-read");
    plot.addEventListener("pointermove", (event) => (this.drag ? this.stretch(event) : this.hover(event)));
    plot.addEventListener("pointerleave", () => this.leave());
    plot.addEventListener("pointerdown", (event) => this.grab(event));
    plot.addEventListener("pointerup", (event) => this.release(event));
    plot.addEventListener("dblclick", () => this.zoom.size && this.showWhole());
    plot.addEventListener("keydown", (event) => this.key(event));
    plot.addEventListener("blur", () => this.leave());
  }

  hover(event) {
    if (!this.svg() || !this.points.length) return;
    const [x, y] = this.place(event);
    let [nearest, least] = [null, 40 ** 2];
    for (const point of this.points) {
      const far = (point.x - x) ** 2 + ((point.y - y) * 0.6) ** 2;
      if (far < least) [nearest, least] = [point, far];
    }
    if (nearest) this.show(nearest);
    else this.leave();
  }

  leave() {
    this.tip.hidden = this.ring.hidden = true;
    this.at = null;
  }

  show(point, aloud = false) {
    const { title, ...values } = point.says;
    const pairs = Object.entries(values);
    this.tip.replaceChildren(make("strong", {}, make("bdi", {}, title)),
      ...pairs.map(([name, value]) => make("span", {}, `${name}: `, make("b", {}, String(value)))));
    this.tip.hidden = this.ring.hidden = false;
    const svg = this.svg();
    const [inner, outer] = [svg.getBoundingClientRect(), this.plot.getBoundingClientRect()];
    const scale = inner.width / Number(svg.getAttribute("width"));
    const left = point.x * scale + inner.left - outer.left + this.plot.scrollLeft;
    const top = point.y * scale + inner.top - outer.top;
    Object.assign(this.ring.style, { left: `${left}px`, top: `${top}px` });
    const [from, room] = [this.plot.scrollLeft, this.plot.clientWidth];
    const beside = Math.max(from, Math.min(left - this.tip.offsetWidth / 2, from + room - this.tip.offsetWidth));
    const above = top - this.tip.offsetHeight - 12;
    Object.assign(this.tip.style, { left: `${beside}px`, top: `${above < 0 ? top + 14 : above}px` });
    this.at = point;
    if (!aloud) return;
    this.readout.textContent = `${title}; ${pairs.map(([name, value]) => `${name} ${value}`).join("; ")}`;
    if (left < from || left > from + room) this.plot.scrollLeft = left - 40;
  }

  async key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: 0, End: 0 }[event.key];
    if (event.target !== this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") this.leave();
    else if (event.key === "+") this.scaleBy(0.5);
    else if (event.key === "-") this.scaleBy(2);
    else if (event.key === "0") this.showWhole();
    if (step === undefined) return;
    event.preventDefault();
    const at = this.at;
    await this.draw();
    const next = this.neighbour(at, event.key, step);
    if (next) this.show(next, true);
  }

  // Left and right go along a series, up and down to the next one.
  neighbour(at, key, step) {
    const series = [...new Set(this.points.map((point) => point.series))];
    if (!at) return this.points.find((point) => point.series === series[0]);
    const same = (name) => this.points.filter((point) => point.series === name).sort((a, b) => a.x - b.x);
    const mine = same(at.series);
    if (key === "Home") return mine[0];
    if (key === "End") return mine.at(-1);
    if (key === "ArrowLeft" || key === "ArrowRight") return mine[mine.indexOf(at) + step] ?? at;
    const other = series[series.indexOf(at.series) + step];
    if (other === undefined) return at;
    return same(other).reduce((best, point) => (Math.abs(point.x - at.x) < Math.abs(best.x - at.x) ? point : best));
  }

  grab(event) {
    if (event.pointerType !== "mouse" || event.button !== 0 || !this.view) return;
    const from = this.place(event);
    const plot = this.plots.find(({ at, width, height }) =>
      from[0] >= at[0] && from[0] <= at[0] + width && from[1] >= at[1] && from[1] <= at[1] + height);
    if (!plot || !this.scales.size) return;
    event.preventDefault();
    this.plot.focus({ preventScroll: true });
    this.drag = { plot, from, event };
    this.plot.setPointerCapture(event.pointerId);
  }

  stretch(event) {
    const { left, top } = this.plot.getBoundingClientRect();
    const from = this.drag.event;
    this.box.hidden = false;
    this.leave();
    Object.assign(this.box.style, {
      left: `${Math.min(event.clientX, from.clientX) - left + this.plot.scrollLeft}px`,
      top: `${Math.min(event.clientY, from.clientY) - top}px`,
      width: `${Math.abs(event.clientX - from.clientX)}px`,
      height: `${Math.abs(event.clientY - from.clientY)}px`,
    });
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    this.box.hidden = true;
    const moved = drag && Math.abs(event.clientX - drag.event.clientX) + Math.abs(event.clientY - drag.event.clientY);
    if (moved > 8) this.zoomTo(drag.plot, drag.from, this.place(event));
  }

  // — taking it along ———————————————————————————————————————————————————————————————————

  asSvg() {
    const svg = (this.svg() ?? make("svg")).cloneNode(true);
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.setAttribute("style", "background: #fff; color: #1b1e22; font-family: system-ui, sans-serif");
    return new XMLSerializer().serializeToString(svg);
  }

  asTable(between) {
    const cell = (node) => {
      let text = node.textContent.replace(/[\u2068\u2069]/g, "").trim();
      if (/^[=+@\t\r]|^-(?!\d)/.test(text)) text = `'${text}`; // a spreadsheet would compute it
      return between === "," && /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return $$("details.data tr", this.element).map((row) => [...row.cells].map(cell).join(between)).join("\n") + "\n";
  }
}

function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

async function copy(text, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => (button.textContent = said), 2000);
}


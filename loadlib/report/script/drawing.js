// A chart's specification → what is to be seen of it, and where on the picture that stands.
//
// Nothing here knows of the page. A specification has notes of what its parts are of, made by
// loadlib/report/interactive.py; they are taken out before it is drawn.

const HOW = ["concat", "vconcat", "hconcat"];
const inner = (node) => HOW.map((how) => node[how]).find(Boolean);
const unitsOf = (node) => (inner(node) ? inner(node).flatMap(unitsOf) : [node]);
const layersOf = (unit) => (unit.layer ? unit.layer.flatMap(layersOf) : [unit]);
const frameOf = (unit) => layersOf(unit).find((layer) => layer.encoding?.x?.axis || layer.encoding?.y?.axis);
const scaleKey = (channel, unit) => {
  const scale = frameOf(unit)?.encoding[channel]?.scale;
  return scale?.domain ? `${channel} ${scale.type ?? "linear"} ${JSON.stringify(scale.domain)}` : null;
};

// The specification of what is to be seen: chosen panels and marks, enlarged, without notes.
function shaped(figure, groups) {
  const spec = structuredClone(figure.spec);
  const how = HOW.find((name) => name in spec);
  const all = how ? spec[how] : [spec];
  const seen = (note) => !note.groups.length || note.groups.some((i) => groups.has(i));
  const kept = all.filter((panel) => seen(panel.loadlib));
  if (!kept.length) return null;
  if (how && kept.length < all.length) lendAxes(figure.spec[how], all, kept, spec, how);
  for (const panel of kept) {
    const caption = panel.loadlib.caption;
    unitsOf(panel).forEach((unit, place) => {
      prune(unit, (layer) => seen(layer.loadlib) && !layer.loadlib.keys.some((key) => figure.hidden(key)));
      for (const layer of layersOf(unit)) dress(figure, layer, caption, spec.loadlib.axes[place]);
      enlarge(figure, unit);
    });
  }
  if (how) spec[how] = kept;
  for (const panel of kept) strip(panel);
  delete spec.loadlib;
  return spec;
}

function prune(unit, wanted) {
  if (!unit.layer) return;
  unit.layer = unit.layer.filter((layer) => layer.layer || wanted(layer));
  unit.layer.forEach((layer) => prune(layer, wanted));
}

function strip(node) {
  delete node.loadlib;
  (node.layer ?? inner(node) ?? []).forEach(strip);
}

// Axes are labelled at the left and at the foot of the grid: where panels go, others take over.
function lendAxes(original, all, kept, spec, how) {
  const columns = spec.columns ?? (how === "hconcat" ? all.length : 1);
  const left = (i) => i % columns === 0;
  const foot = (i, n) => i + columns >= n;
  kept.forEach((panel, now) => {
    const before = all.indexOf(panel);
    const lenders = {
      x: foot(now, kept.length) === foot(before, all.length) ? null : foot(now, kept.length) ? original.length - 1 : 0,
      y: left(now) === left(before) ? null : left(now) ? 0 : 1,
    };
    for (const [channel, lender] of Object.entries(lenders)) {
      if (lender === null) continue;
      unitsOf(panel).forEach((unit, place) => {
        const own = frameOf(unit)?.encoding[channel];
        const other = frameOf(unitsOf(original[lender])[place])?.encoding[channel];
        if (own && other) own.axis = { ...structuredClone(other.axis), values: own.axis?.values ?? other.axis?.values };
      });
    }
  });
  if (!spec.columns || kept.length >= spec.columns) return;
  const gap = spec.spacing?.column ?? 18; // fewer columns share the whole width
  const share = (width) => Math.floor((columns * (width + gap) - gap - (kept.length - 1) * gap) / kept.length);
  for (const unit of kept.flatMap(unitsOf)) if (unit.width) unit.width = share(unit.width);
  spec.columns = kept.length;
}

function dress(figure, layer, caption, axes) {
  if (!layer.loadlib.read || layer.encoding.tooltip) return;
  const labels = layer.loadlib.keys.map((key) => figure.legend[key]).filter((label) => label !== caption);
  const said = ["x", "y"].flatMap((channel) => {
    const { field, type = "quantitative" } = layer.encoding[channel] ?? {};
    if (!field) return [];
    const [title, label] = axes[channel];
    if (type !== "quantitative") return [`${JSON.stringify(title)}: datum[${JSON.stringify(field)}]`];
    const text = (name) => {
      const value = `datum[${JSON.stringify(name)}]`;
      return label ? `(${label.replaceAll("datum.value", value).replaceAll(".0%", ".1%").replaceAll("'~r'", "'.4~r'")})` : `format(${value}, ',~r')`;
    };
    const end = layer.encoding[`${channel}2`]?.field;
    return [`${JSON.stringify(title)}: ${text(field)}${end ? ` + ' to ' + ${text(end)}` : ""}`];
  });
  const more = layer.encoding.description;
  if (more) said.push(`${JSON.stringify(more.title)}: datum[${JSON.stringify(more.field)}]`);
  const mark = typeof layer.mark === "string" ? { type: layer.mark } : layer.mark;
  const title = JSON.stringify([caption, ...labels].filter(Boolean).join(" · "));
  layer.mark = { ...mark, tooltip: { expr: `{title: ${title}, ${said.join(", ")}}` } };
}

// Round values within a narrowed domain: on a log axis the coarsest steps of which three fit.
function ticks(type, [low, high], before) {
  const within = (values) => values.filter((v) => v >= low && v <= high);
  if (type === "log") {
    const twos = before.every((v) => Number.isInteger(Math.log2(v)));
    const exponents = [...Array(80).keys()].map((i) => i - 30);
    for (const steps of twos ? [[1], [1, 1.5]] : [[1], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
      const found = within(exponents.flatMap((e) => steps.map((s) => Number((s * (twos ? 2 : 10) ** e).toPrecision(12)))));
      if (found.length >= 3) return found.filter((_, i) => i % Math.ceil(found.length / 9) === 0);
    }
  }
  const raw = (high - low) / 5;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = base * [1, 2, 5, 10].find((s) => s * base >= raw);
  const first = Math.ceil(low / step);
  return [...Array(8).keys()].map((i) => Number(((first + i) * step).toPrecision(12))).filter((v) => v <= high);
}

function enlarge(figure, unit) {
  let changed = false;
  for (const channel of ["x", "y"]) {
    const to = figure.zoom.get(scaleKey(channel, unit));
    if (!to) continue;
    changed = true;
    const { scale, axis } = frameOf(unit).encoding[channel];
    scale.domain = to;
    if (axis) axis.values = ticks(scale.type, to, axis.values ?? []);
  }
  if (!changed) return;
  for (const layer of layersOf(unit)) { // what is placed on the axes ends with them
    if (!["x", "y"].some((channel) => layer.encoding?.[channel]?.field)) continue;
    layer.mark = { ...(typeof layer.mark === "string" ? { type: layer.mark } : layer.mark), clip: true };
  }
}

// Every place of the picture that says something: where it is, and of which series.
function pointsOf(view) {
  const [x0, y0] = view.origin();
  const found = [];
  let series = 0;
  (function walk(mark, x, y) {
    series += 1;
    for (const item of mark.items) {
      if (mark.marktype === "group") item.items.forEach((child) => walk(child, x + (item.x ?? 0), y + (item.y ?? 0)));
      else if (item.tooltip?.title !== undefined) {
        const { marktype } = mark;
        let [px, py] = [item.x ?? 0, item.y ?? 0];
        if (marktype === "rect") [px, py] = [px + item.width / 2, py + item.height / 2];
        if (marktype === "rule") [px, py] = [(px + (item.x2 ?? px)) / 2, (py + (item.y2 ?? py)) / 2];
        if (Number.isFinite(px) && Number.isFinite(py)) found.push({ x: x + px + x0, y: y + py + y0, says: item.tooltip, series });
      }
    }
  })(view.scenegraph().root, 0, 0);
  return found;
}

// The plots of a picture, in the order of the specification: where each is, and how large.
function plotsOf(view, spec) {
  const [x0, y0] = view.origin();
  const found = [];
  (function walk(mark, x, y) {
    if (mark.marktype !== "group") return;
    for (const item of mark.items) {
      const at = [x + (item.x ?? 0), y + (item.y ?? 0)];
      if (mark.role === "axis" || mark.role === "legend" || mark.role === "title") continue;
      const leaf = item.items.some((child) => child.role === "mark" && child.marktype !== "group");
      if (leaf) found.push({ at: [at[0] + x0, at[1] + y0], width: item.width, height: item.height });
      item.items.forEach((child) => walk(child, at[0], at[1]));
    }
  })(view.scenegraph().root, 0, 0);
  return found.map((plot, unit) => ({ ...plot, unit }));
}


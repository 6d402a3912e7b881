// What a report does beyond being read: filter, sort, compare, and draw its charts anew.
//
// The page is complete without this. Everything here is one state (what is chosen, kept in the
// address) and one function, `apply`, that makes the page agree with it. Charts are Vega-Lite
// specifications with notes of what each mark is of (loadlib/report/interactive.py); a choice
// rewrites the specification and draws it anew, so no chart has to know of any choice.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);

function make(tag, given = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

// — the state, and the address that holds it ——————————————————————————————————————————————

const CHOICES = ["model", "workload", "phase"];
let state;

// #latency&model=gpt-4o&model=gpt-4&ref=gpt-4o&sort=models.4.down&hide=ttft-histogram.1
function readAddress() {
  const words = location.hash.slice(1).split("&");
  let at = words[0].includes("=") ? "" : words.shift();
  try {
    at = decodeURIComponent(at);
  } catch {
    at = ""; // typed by hand, and wrong
  }
  const given = new URLSearchParams(words.join("&"));
  const found = { at, ref: given.get("ref") ?? data.reference, sort: {}, hide: new Set(given.getAll("hide")) };
  for (const choice of CHOICES) {
    found[choice] = new Set(given.getAll(choice).filter((name) => data.names[choice].includes(name)));
  }
  for (const [table, column, way] of given.getAll("sort").map((text) => text.split("."))) {
    found.sort[table] = { column: Number(column), way };
  }
  return found;
}

function address() {
  const out = new URLSearchParams();
  for (const choice of CHOICES) state[choice].forEach((name) => out.append(choice, name));
  if (state.ref !== data.reference) out.append("ref", state.ref);
  for (const [table, { column, way }] of Object.entries(state.sort)) out.append("sort", `${table}.${column}.${way}`);
  state.hide.forEach((key) => out.append("hide", key));
  return [encodeURIComponent(state.at), out.toString()].filter(Boolean).join("&");
}

function commit() {
  const wanted = address();
  if (wanted !== location.hash.slice(1)) {
    history.pushState(null, "", wanted ? `#${wanted}` : location.pathname + location.search);
  }
  apply();
}

function scrollToPlace() {
  const place = state.at && document.getElementById(state.at);
  if (place) place.scrollIntoView();
}

// The browser follows a link by itself, unless the choices would be lost from the address.
function follow(event) {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  state.at = link.getAttribute("href").slice(1);
  const wanted = address();
  if (wanted === state.at) return;
  event.preventDefault();
  history.pushState(null, "", `#${wanted}`);
  scrollToPlace();
  document.getElementById(state.at)?.focus({ preventScroll: true });
}

// — which groups are chosen —————————————————————————————————————————————————————————————

const chosenGroups = () =>
  new Set(
    data.groups.flatMap((group, i) =>
      CHOICES.every((choice) => !state[choice].size || state[choice].has(group[choice])) ? [i] : [],
    ),
  );
const narrowed = () => CHOICES.some((choice) => state[choice].size);

function buildFilter() {
  const sets = CHOICES.filter((choice) => data.names[choice].length > 1).map((choice) =>
    make("fieldset", {}, make("legend", {}, choice[0].toUpperCase() + choice.slice(1)),
      ...data.names[choice].map((name) =>
        make("button", { type: "button", class: "choice", "data-choice": choice, "data-name": name, "aria-pressed": "false",
          onclick: () => {
            if (!state[choice].delete(name)) state[choice].add(name);
            commit();
          } }, make("bdi", {}, name)))));
  if (!sets.length) return;
  const clear = make("button", { type: "button", class: "plain", id: "show-all",
    onclick: () => {
      CHOICES.forEach((choice) => state[choice].clear());
      commit();
    } }, "Show all");
  $("#filter").append(...sets, make("p", { role: "status" }, make("span", { id: "chosen" }), " ", clear));
  $("#filter").hidden = false;
  new ResizeObserver(() => { // table heads stay below it
    const sticky = getComputedStyle($("#filter")).position === "sticky";
    document.documentElement.style.setProperty("--bar", sticky ? `${$("#filter").offsetHeight}px` : "0px");
  }).observe($("#filter"));
}

function showFilter(groups) {
  for (const button of $$("#filter .choice")) {
    button.setAttribute("aria-pressed", String(state[button.dataset.choice].has(button.dataset.name)));
  }
  if (!$("#chosen")) return;
  $("#chosen").textContent = narrowed()
    ? `Showing ${groups.size} of ${data.all} groups; the verdict is of all.`
    : `Showing ${data.all > data.groups.length ? "the busiest" : "all"} ${data.groups.length} groups. Choose to narrow tables, tiles and charts.`;
  $("#show-all").hidden = !narrowed();
  $("#filter").classList.toggle("active", narrowed());
}

const isOf = (element, groups) => element.dataset.g.split(" ").some((i) => groups.has(Number(i)));

function showRows(groups) {
  for (const element of $$("[data-g]")) element.hidden = narrowed() && !isOf(element, groups);
  if (narrowed()) for (const more of $$("#gates details")) more.open = true;
  for (const body of $$("tbody")) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("none"));
    const empty = rows.length > 0 && rows.every((row) => row.hidden);
    let note = $("tr.none", body);
    if (empty && !note) {
      note = make("tr", { class: "none" }, make("td", { colspan: 30 }, "Nothing here is of the chosen groups."));
      body.append(note);
    }
    if (note) note.hidden = !empty;
  }
  showRepeats();
}

// A model is named in the first of its rows only, unless the rows are in another order.
function showRepeats() {
  for (const body of $$("table.models tbody")) {
    const sorted = Boolean(state.sort[body.closest("table").id]);
    let before = null;
    for (const row of [...body.rows].filter((row) => !row.hidden && row.cells[0].tagName === "TH")) {
      const name = row.cells[0].textContent;
      $("bdi", row.cells[0]).classList.toggle("hidden", !sorted && name === before);
      row.classList.toggle("first", sorted || name !== before);
      before = name;
    }
  }
}

// — numbers as text, as loadlib.charts.numerals writes them ——————————————————————————————

const grouped = (value, digits) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const count = (value) => grouped(value, 0);
function number(value) {
  return value === 0 ? "0" : grouped(value, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
}
function usd(value) {
  if (value === 0 || Math.abs(value) >= 1) return `$${grouped(value, 2)}`;
  const [whole, cents = ""] = number(value).split(".");
  return `$${whole}.${cents.replace(/0+$/, "").padEnd(2, "0")}`;
}

// — tiles ————————————————————————————————————————————————————————————————————————————————

function extreme(tile, known, all) {
  if (!known.length) return ["–", "not measured"];
  known.sort((a, b) => (tile.worst === "high" ? b.v - a.v : a.v - b.v));
  const [worst, best] = [known[0], known.at(-1)];
  if (known.length === 1) return [worst.t, worst.w];
  if (worst.v !== best.v) return [worst.t, `${tile.say}, ${worst.w}; ${tile.other} ${best.t.replace(" †", "")}`];
  return [worst.t, known.length < all ? `${tile.every} that has ${tile.what}` : tile.every];
}

const TILES = {
  extreme: (tile, groups) => extreme(tile, tile.of.filter((reading) => groups.has(reading.g)), groups.size),
  system(tile, groups) {
    const sums = new Map();
    tile.of.forEach(([rate, where], i) => groups.has(i) && rate !== null && sums.set(where, (sums.get(where) ?? 0) + rate));
    return extreme(tile, [...sums].map(([w, v]) => ({ w, v, t: number(v) })), sums.size);
  },
  requests(tile, groups) {
    const sum = [0, 0, 0, 0];
    tile.of.forEach((row, i) => groups.has(i) && row.forEach((n, k) => (sum[k] += n)));
    const [ok, total, failed, dropped] = sum;
    return [count(ok), `of ${count(total)}; ${count(failed)} failed${dropped ? `, ${count(dropped)} dropped` : ""}`];
  },
  cost(tile, groups) {
    const known = tile.of.filter((usd, i) => groups.has(i) && usd !== null);
    if (!known.length) return ["–", "no list price known"];
    return [usd(known.reduce((a, b) => a + b, 0)), "at list price, measure phases"];
  },
};

function showTiles(groups) {
  $$(".tile").forEach((element, i) => {
    const tile = data.tiles[i];
    const [value, detail] = narrowed() ? TILES[tile.kind](tile, groups) : [tile.value, tile.detail];
    $(".value", element).textContent = value;
    $(".detail", element).textContent = detail;
  });
}

// — tables: order, and the model others are compared with ————————————————————————————————

function buildSorting() {
  for (const table of $$("table[data-sortable]")) {
    for (const head of $$("thead th[data-c]", table)) {
      const name = [...head.childNodes];
      head.append(make("button", { type: "button", class: "sort",
        onclick: () => {
          const now = state.sort[table.id];
          const column = Number(head.dataset.c);
          if (!now || now.column !== column) state.sort[table.id] = { column, way: "up" };
          else if (now.way === "up") now.way = "down";
          else delete state.sort[table.id];
          commit();
        } }, ...name));
    }
  }
}

function showOrder() {
  for (const table of $$("table[data-sortable]")) {
    const wanted = state.sort[table.id];
    for (const head of $$("thead th[data-c]", table)) {
      const mine = wanted && wanted.column === Number(head.dataset.c);
      if (mine) head.setAttribute("aria-sort", wanted.way === "up" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    const rows = [...table.tBodies[0].rows];
    rows.forEach((row, i) => (row.dataset.at ??= i));
    rows.sort((a, b) => (wanted && compareCells(a, b, wanted)) || a.dataset.at - b.dataset.at);
    table.tBodies[0].append(...rows);
  }
}

function compareCells(a, b, { column, way }) {
  const [x, y] = [a, b].map((row) => {
    const cell = row.cells[column];
    return cell?.dataset.v === undefined ? cell?.textContent.trim() ?? "" : cell.dataset.v === "" ? null : Number(cell.dataset.v);
  });
  if (x === null || y === null) return (x === null) - (y === null); // what is unknown comes last
  const order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
  return way === "up" ? order : -order;
}

function buildReference() {
  if (!$("#ratios")) return;
  const choose = make("select", { id: "reference",
    onchange: () => {
      state.ref = choose.value;
      commit();
    } }, ...data.names.model.map((name) => make("option", { value: name }, name)));
  $("#against").replaceChildren(make("label", { for: "reference" }, "Compared with "), choose);
}

function showReference() {
  if (!$("#ratios")) return;
  const known = data.names.model.includes(state.ref) ? state.ref : data.reference;
  $("#reference").value = known;
  for (const row of $$("#ratios tbody tr[data-g]")) {
    const cells = data.ratios[known][row.dataset.g];
    [...row.cells].slice(2).forEach((cell, i) => {
      const [ratio, word, value] = cells[i];
      cell.dataset.v = value ?? "";
      cell.replaceChildren(ratio, ...(word ? [make("span", { class: `sub ${word}` }, word)] : []));
    });
  }
}

const figures = [];
async function buildFigures() {
  if (!window.DecompressionStream) return; // then they are pictures
  const charts = JSON.parse(await unpacked("charts"));
  const shown = $$("figure.chart").filter((element) => charts[element.id]);
  figures.push(...shown.map((element) => new Figure(element, charts[element.id])));
  showFigures();
  figures.forEach(({ element }) => sight.observe(element));
}

// What is in sight first; the rest is made to agree when it comes into sight, or before printing.
const sight = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    const figure = figures.find(({ element }) => element === target);
    figure.inSight = isIntersecting;
    if (isIntersecting && figure.stale()) figure.draw();
  }
}, { rootMargin: "200px" });

function showFigures() {
  for (const figure of figures) {
    figure.showLegend();
    if (figure.inSight && figure.stale()) figure.draw();
  }
  clearTimeout(showFigures.later);
  showFigures.later = setTimeout(async () => {
    for (const figure of figures) if (figure.stale()) await figure.draw();
  }, 1500);
}

// — theme ————————————————————————————————————————————————————————————————————————————————

const THEMES = { auto: "(prefers-color-scheme: dark)", light: "not all", dark: "all" };
const remembered = { // a page of its own (a file, a sandbox) may have no store
  get: () => { try { return localStorage.getItem("loadlib-theme"); } catch { return null; } },
  set: (name) => { try { localStorage.setItem("loadlib-theme", name); } catch { /* then not */ } },
};
function buildTheme() {
  const names = Object.keys(THEMES);
  let now = names.includes(remembered.get()) ? remembered.get() : "auto";
  const show = () => {
    $("#dark").media = THEMES[now];
    button.textContent = `Theme: ${now}`;
  };
  const button = make("button", { type: "button", class: "plain", id: "theme",
    onclick: () => {
      now = names[(names.indexOf(now) + 1) % names.length];
      remembered.set(now);
      show();
    } });
  $(".brand").append(button);
  show();
}

// ————————————————————————————————————————————————————————————————————————————————————————

function apply() {
  state = readAddress();
  const groups = chosenGroups();
  showFilter(groups);
  showOrder();
  showRows(groups);
  showTiles(groups);
  showReference();
  showFigures();
}

buildTheme();
buildFilter();
buildSorting();
buildReference();
apply();
if (narrowed()) scrollToPlace();
addEventListener("hashchange", apply);
document.addEventListener("click", follow);
buildFigures().then(() => (document.documentElement.dataset.ready = ""));

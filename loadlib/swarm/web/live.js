/* The live view: in the tab "LLM" of Locust's page, and on llm/ by itself. It shows what
   live.json says and nothing else. Every name in there is free text of somebody's: text reaches
   the page through textContent only. */
(() => {
  'use strict';

  const TAB = 'llm';
  const BUSY_MS = 1500, IDLE_MS = 4000, MOST_LINES = 8;
  const BASE = new URL('.', document.currentScript.src);
  const SVG = 'http://www.w3.org/2000/svg';
  const MARKS = {pass: '✓', ok: '✓', fail: '✗', bad: '✗', inconclusive: '…', warn: '!'};
  const SAID = {pass: 'pass', ok: 'ok', fail: 'fail', bad: 'bad', inconclusive: 'undecided', warn: 'warning'};
  const WORST = ['pass', 'inconclusive', 'fail'];
  const PERCENTILES = ['p50', 'p90', 'p99'];

  // -- what is known ---------------------------------------------------------------------------

  const fresh = () => ({
    doc: null, rows: new Map(), curves: new Map(), gates: [], health: null,
    seconds: [], lines: new Map(), columns: [], generation: 0, trouble: '',
  });
  let known = fresh();
  const chosen = {group: '', percentile: 'p90', phase: '', all: false};

  const idOf = (...names) => JSON.stringify(names);

  /* In the order of the plan: its models and workloads first, what came beyond it after them. */
  function inOrder(items) {
    const places = new Map((known.doc ? known.doc.pairs : []).map((pair, i) => [idOf(...pair), i]));
    const place = item => places.get(idOf(item.model, item.workload)) ?? places.size;
    return items.map((item, i) => [place(item), i, item]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(found => found[2]);
  }

  /* Take a document in. To take the same one in twice changes nothing. */
  function learn(doc) {
    if (!doc.partial || !known.doc || known.doc.run !== doc.run) known = fresh();
    known.doc = doc;
    for (const row of doc.rows) known.rows.set(idOf(row.model, row.workload, row.phase), row);
    for (const one of doc.curves) known.curves.set(idOf(one.model, one.workload, one.phase), one);
    if (doc.gates) known.gates = doc.gates;
    if (doc.health) known.health = doc.health;
    const series = doc.series;
    if (!series.columns) return;
    known.columns = series.columns;
    known.generation = series.generation;
    known.seconds = known.seconds.slice(0, series.from).concat(series.seconds);
    for (const group of series.groups) {
      const id = idOf(group.model, group.workload);
      const before = known.lines.get(id) || {model: group.model, workload: group.workload, values: []};
      before.values = series.columns.map((_, i) => {
        const old = (before.values[i] || []).slice(0, series.from);
        while (old.length < series.from) old.push(null);
        return old.concat(group.values[i]);
      });
      known.lines.set(id, before);
    }
  }

  function address() {
    const url = new URL('live.json', BASE);
    const doc = known.doc;
    if (doc && doc.run) {
      url.searchParams.set('seen', [doc.run, doc.revision, known.generation, known.seconds.length].join('.'));
    }
    return url;
  }

  let timer = 0;
  async function poll() {
    clearTimeout(timer);
    if (!host || !host.isConnected || document.hidden) {
      timer = setTimeout(poll, 400);
      return;
    }
    try {
      const answer = await fetch(address(), {credentials: 'same-origin', redirect: 'manual'});
      if (answer.type === 'opaqueredirect' || answer.status === 401) {
        known.trouble = 'You are logged out: log in again to see the run.';
      } else if (answer.ok) {
        learn(await answer.json());
        known.trouble = '';
      } else {
        known.trouble = `loadlib answers ${answer.status}: what stands here is old.`;
      }
    } catch {
      known.trouble = 'loadlib does not answer: what stands here is old.';
    }
    draw();
    const state = known.doc ? known.doc.state : 'idle';
    const quiet = known.trouble || state === 'idle' || state === 'finished';
    timer = setTimeout(poll, quiet ? IDLE_MS : BUSY_MS);
  }

  // -- words and figures -----------------------------------------------------------------------

  const unknown = value => value === null || value === undefined;
  const fixed = (value, digits) => value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
  const count = value => unknown(value) ? '–' : fixed(value, 0);
  const short = value => unknown(value) ? '–' : fixed(value, Math.abs(value) < 10 ? 1 : 0);
  const rate = value => unknown(value) ? '–' : fixed(value, value < 100 ? 1 : 0);
  const share = value => unknown(value) ? '–' : `${fixed(100 * value, 1)} %`;
  const money = value => unknown(value) ? '–' : `$${fixed(value, value < 1 ? 4 : 2)}`;

  function clock(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const two = n => String(n).padStart(2, '0');
    const minutes = Math.floor(whole / 60);
    return minutes < 60 ? `${minutes}:${two(whole % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
  }

  function observed(gate) {
    if (unknown(gate.observed)) return '–';
    if (gate.unit === 'share') return share(gate.observed);
    if (gate.unit === 'usd') return money(gate.observed);
    return `${short(gate.observed)} ${gate.unit}`;
  }

  /* Why a light is neither green nor red, in a few words; the whole reason is its title. */
  function doubt(gate) {
    if (gate.status !== 'inconclusive') return '';
    const few = /needs ([\d,]+) samples/.exec(gate.reason);
    if (few) return ` not enough yet: ${count(gate.n)} of ${few[1]}`;
    return gate.reason.startsWith('the truth') ? ' the instrument cannot tell' : ` ${gate.reason.slice(0, 60)}`;
  }

  function reading(check) {
    const name = check.name.replace(/_(ms|share|max|p90|p99)(?=_|$)/g, (part, which) => which === 'ms' || which === 'share' ? '' : ` ${which}`);
    const text = name.replaceAll('_', ' ');
    if (unknown(check.value)) return [text, '–'];
    if (check.name.endsWith('_ms')) return [text, `${short(check.value)} ms`];
    return [text, check.name.includes('share') ? share(check.value) : count(check.value)];
  }

  // -- elements --------------------------------------------------------------------------------

  function el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === true) node.setAttribute(key, '');
      else if (value !== false && !unknown(value)) node.setAttribute(key, value);
    }
    node.append(...children.filter(child => !unknown(child)));
    return node;
  }

  function shape(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const mark = status => el('i', {class: `mark ${status}`, title: SAID[status]}, MARKS[status] || '·');

  let host = null, parts = null;

  function build() {
    host = el('loadlib-live', {});
    const root = host.attachShadow({mode: 'open'});
    parts = {
      head: el('div', {}), say: el('p', {class: 'say', role: 'status', hidden: true}),
      lights: el('section', {'aria-label': 'Objectives', hidden: true}),
      health: el('section', {'aria-label': 'Instrument', hidden: true}),
      servers: el('section', {'aria-label': 'Servers', hidden: true}),
      table: el('section', {'aria-label': 'Models and workloads', hidden: true}),
      charts: el('section', {'aria-label': 'Charts', hidden: true}),
    };
    root.append(el('link', {rel: 'stylesheet', href: new URL('live.css', BASE).href}), ...Object.values(parts));
    buildTable();
    buildCharts();
  }

  // -- head, lights, health --------------------------------------------------------------------

  function draw() {
    theme();
    const doc = known.doc;
    parts.say.hidden = !known.trouble && !(doc && doc.state === 'idle');
    parts.say.className = known.trouble ? 'say bad' : 'say';
    parts.say.textContent = known.trouble || 'No run yet. Fill in the form on Locust’s page and press Start.';
    const running = doc !== null && doc.state !== 'idle';
    for (const name of ['table', 'charts']) parts[name].hidden = !running || !known.rows.size;
    if (!running) {
      parts.head.replaceChildren();
      parts.lights.hidden = parts.health.hidden = parts.servers.hidden = true;
      return;
    }
    drawHead(doc);
    drawLights();
    drawHealth();
    drawServers(doc);
    drawTable(doc);
    drawCharts(doc);
  }

  function drawHead(doc) {
    const verdict = doc.verdict, state = verdict ? verdict.status : doc.state;
    const head = el('div', {class: 'head'}, el('span', {class: `chip ${state}`, role: 'status'}, (MARKS[state] ? `${MARKS[state]} ` : '') + state.toUpperCase()), el('h2', {}, doc.scenario || doc.run));
    const links = el('div', {class: 'links'});
    const link = (href, text) => links.append(el('a', {href: new URL(href, BASE).href, target: '_blank', rel: 'noopener'}, text));
    if (doc.links.report) link(doc.links.report, doc.state === 'finished' ? 'Report' : 'Report so far');
    for (const one of (doc.links.runs || []).filter(one => one.run !== doc.run).slice(-3).reverse()) {
      link(one.href, `Report of ${one.run}`);
    }
    if (!standalone) link('.', 'This view by itself');
    head.append(links);
    const facts = el('dl', {class: 'facts'});
    const fact = (name, text) => facts.append(el('div', {}, el('dt', {}, name), el('dd', {}, text)));
    const phase = doc.phases.find(one => one.title === doc.phase);
    if (phase) fact('phase', `${phase.title} (${phase.load})`);
    fact('time', clock(doc.elapsed_s) + (unknown(doc.planned_s) ? '' : ` of ${clock(doc.planned_s)}`));
    const spent = doc.spent;
    if (spent) {
      const of = limit => unknown(limit) ? '' : ` of ${limit}`;
      fact('requests', count(spent.requests) + of(unknown(spent.max_requests) ? null : count(spent.max_requests)));
      if (!unknown(spent.output_tokens)) fact('output tokens', count(spent.output_tokens) + of(unknown(spent.max_output_tokens) ? null : count(spent.max_output_tokens)));
      const more = spent.unknown ? ` and ${count(spent.unknown)} requests of unknown cost` : '';
      fact('cost', (unknown(spent.usd) ? 'no price known' : money(spent.usd)) + of(unknown(spent.max_usd) ? null : money(spent.max_usd)) + more);
    }
    const bar = el('i', {}), progress = el('div', {class: 'progress', 'aria-hidden': 'true'}, bar);
    bar.style.width = `${doc.planned_s ? Math.min(100, 100 * doc.elapsed_s / doc.planned_s) : 0}%`;
    const children = [head, facts];
    if (doc.planned_s) children.push(progress);
    for (const reason of verdict ? verdict.reasons.slice(0, 4) : []) children.push(el('p', {class: 'say'}, reason));
    parts.head.replaceChildren(...children);
  }

  function drawLights() {
    parts.lights.hidden = !known.gates.length;
    if (!known.gates.length) return;
    const byText = new Map();
    for (const gate of known.gates) {
      const id = idOf(gate.scope, gate.expression);
      byText.set(id, [...(byText.get(id) || []), gate]);
    }
    const list = el('ul', {class: 'lights'});
    const several = new Set(known.gates.map(gate => gate.phase)).size > 1;
    for (const gates of byText.values()) {
      gates.sort((a, b) => WORST.indexOf(b.status) - WORST.indexOf(a.status));
      const first = gates[0], scope = first.scope === 'all' ? '' : `${first.scope}: `;
      const item = el('li', {class: `light ${first.status}`}, el('b', {}, mark(first.status), `${scope}${first.expression}`));
      for (const gate of gates.slice(0, MOST_LINES)) {
        const where = gate.model ? `${gate.model} · ${gate.workload}${several ? ` · ${gate.phase}` : ''}` : gate.scope;
        item.append(el('span', {title: gate.reason || SAID[gate.status]}, mark(gate.status), where, ' ', el('b', {}, observed(gate)), el('span', {class: 'muted'}, doubt(gate))));
      }
      if (gates.length > MOST_LINES) item.append(el('span', {class: 'muted'}, `and ${gates.length - MOST_LINES} more`));
      list.append(item);
    }
    const tally = WORST.map(status => [status, known.gates.filter(gate => gate.status === status).length]).filter(([, n]) => n);
    parts.lights.replaceChildren(el('h3', {}, 'Objectives', el('span', {class: 'muted'}, tally.map(([status, n]) => `${n} ${SAID[status]}`).join(' · ') + (known.doc.verdict ? '' : ', judged on what is there so far'))), list);
  }

  function drawHealth() {
    const health = known.health;
    parts.health.hidden = !health;
    if (!health) return;
    const strip = el('ul', {class: 'health'}), reasons = new Map();
    for (const check of health.checks) {
      const [name, value] = reading(check);
      strip.append(el('li', {}, mark(check.status), el('span', {class: 'muted'}, `${name} `), value));
      const why = check.status === 'ok' ? '' : [check.cause, check.remedy].filter(Boolean).join('; ');
      if (why) reasons.set(why, [...(reasons.get(why) || []), name]);
    }
    const said = {ok: 'can be believed', warn: 'read with care', bad: 'cannot be believed: such a run is inconclusive'};
    const children = [el('h3', {}, 'Instrument', el('span', {class: 'muted'}, said[health.status])), strip];
    for (const [why, names] of reasons) children.push(el('p', {class: 'why'}, el('span', {class: 'muted'}, `${names.join(', ')}: `), why));
    parts.health.replaceChildren(...children);
  }

  function drawServers(doc) {
    parts.servers.hidden = !doc.servers.length;
    const strip = el('ul', {class: 'health'});
    for (const one of doc.servers) {
      const said = one.error ? [mark('warn'), one.error] : [
        el('span', {class: 'muted'}, 'running '), count(one.running), el('span', {class: 'muted'}, ' waiting '), count(one.waiting),
        unknown(one.kv_usage) ? null : el('span', {}, el('span', {class: 'muted'}, ' KV cache '), share(one.kv_usage)),
      ];
      strip.append(el('li', {}, el('b', {}, one.name), one.kind ? el('span', {class: 'muted'}, ` ${one.kind}: `) : ' ', ...said));
    }
    parts.servers.replaceChildren(el('h3', {}, 'Servers', el('span', {class: 'muted'}, 'what they said of themselves when asked last')), strip);
  }

  // -- table -----------------------------------------------------------------------------------

  const TITLES = ['Model', 'Workload', 'Phase', 'In flight', 'Offered/s', 'Sent/s', 'OK', 'Errors', '429', 'TTFT p50', 'p90', 'p99 ms', 'TPOT p50', 'p99 ms', 'Tokens/s', 'Goodput', 'Cost'];

  function buildTable() {
    const which = el('select', {'aria-label': 'Phases'}, el('option', {value: 'now'}, 'this phase'), el('option', {value: 'all'}, 'all phases'));
    which.addEventListener('change', () => { chosen.all = which.value === 'all'; draw(); });
    parts.body = el('tbody', {});
    const titles = el('tr', {}, ...TITLES.map((title, i) => el('th', {scope: 'col', class: i < 3 ? 'text' : null}, title)));
    parts.table.append(
      el('h3', {}, 'Models and workloads', el('label', {}, which), el('span', {class: 'muted'}, 'rates and the larger figures are of the last 10 s, the smaller ones of the whole phase')),
      el('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Table of models and workloads'}, el('table', {}, el('thead', {}, titles), parts.body)),
    );
  }

  /* The rows of the phases under load; of the last phase when nothing is. */
  function shownRows(doc) {
    const rows = inOrder([...known.rows.values()]);
    if (chosen.all) return rows;
    const now = doc.now.length ? doc.now : [doc.phase];
    const current = rows.filter(row => now.includes(row.phase));
    return current.length ? current : rows;
  }

  function drawTable(doc) {
    const none = {};
    parts.body.replaceChildren(...shownRows(doc).map(row => {
      const live = doc.now.includes(row.phase);
      const pair = (now, whole) => {
        const big = live && !unknown(now) ? now : null;
        return el('td', {}, short(live ? big : whole), live ? el('small', {}, short(whole)) : null);
      };
      const ttft = row.ttft || none, lately = row.ttft_lately || none;
      const tpot = row.tpot || none, tpotLately = row.tpot_lately || none;
      const failed = row.failed || 0, throttled = row.throttled || 0, waiting = row.waiting || 0;
      return el('tr', {class: live || doc.state === 'finished' ? null : 'past'},
        el('th', {scope: 'row'}, row.model), el('td', {class: 'text'}, row.workload), el('td', {class: 'text'}, row.phase),
        el('td', {}, count(row.in_flight || 0), waiting ? el('small', {}, `${count(waiting)} waiting`) : null),
        el('td', {}, live ? rate(row.offered_rps) : '–'), el('td', {}, live ? rate(row.sent_rps) : '–'),
        el('td', {}, count(row.ok || 0)),
        el('td', {class: failed ? 'bad' : null}, count(failed), row.dropped ? el('small', {}, `${count(row.dropped)} dropped`) : null),
        el('td', {class: throttled ? 'bad' : null}, count(throttled), throttled ? el('small', {}, share(row.throttled_share)) : null),
        ...PERCENTILES.map(p => pair(lately[p], ttft[p])), ...['p50', 'p99'].map(p => pair(tpotLately[p], tpot[p])),
        el('td', {}, live ? rate(row.tok_s) : '–'), el('td', {}, share(row.goodput)),
        el('td', {}, money(row.cost_usd), row.cost_unknown && !unknown(row.cost_usd) ? el('small', {}, `${count(row.cost_unknown)} unknown`) : null));
    }));
  }

  // -- charts ----------------------------------------------------------------------------------

  const CHARTS = [
    ['ttft', 'Time to first token', 'ms'], ['curve', 'Time to first token by percentile', 'ms, whole phase'],
    ['tokens', 'Output tokens', 'per second'], ['load', 'Load', 'in flight, and requests per second'],
  ];

  function buildCharts() {
    const group = el('select', {}), percentile = el('select', {}, ...PERCENTILES.map(p => el('option', {value: p}, p)));
    const phase = el('select', {});
    percentile.value = chosen.percentile;
    group.addEventListener('change', () => { chosen.group = group.value; draw(); });
    percentile.addEventListener('change', () => { chosen.percentile = percentile.value; draw(); });
    phase.addEventListener('change', () => { chosen.phase = phase.value; draw(); });
    parts.group = group;
    parts.phase = phase;
    parts.groupLabel = el('label', {}, 'of', group);
    parts.percentileLabel = el('label', {}, 'percentile', percentile);
    parts.phaseLabel = el('label', {}, 'curve of phase', phase);
    parts.figures = {};
    const grid = el('div', {class: 'charts'});
    for (const [name, title, unit] of CHARTS) {
      const figure = el('figure', {}, el('figcaption', {}, title, el('span', {}, unit)), el('ul', {class: 'legend'}), el('div', {class: 'plot'}));
      parts.figures[name] = figure;
      grid.append(figure);
    }
    parts.note = el('p', {class: 'note'});
    parts.charts.append(el('h3', {}, 'Charts', parts.groupLabel, parts.percentileLabel, parts.phaseLabel), grid, parts.note);
    new ResizeObserver(() => { if (known.doc && known.doc.state !== 'idle') drawCharts(known.doc); }).observe(grid);
  }

  /* One colour a model, one dash a workload. */
  function style(line) {
    const models = new Set(known.doc.pairs.map(pair => pair[0])), workloads = new Set(known.doc.pairs.map(pair => pair[1]));
    const at = (names, name) => Math.max(0, [...names].indexOf(name));
    return {colour: 1 + at(models, line.model) % 7, dash: 1 + at(workloads, line.workload) % 4};
  }

  const groupName = line => `${line.model} · ${line.workload}`;

  /* Keep a select's options up to date without losing what is chosen. */
  function offer(select, options, value) {
    const now = [...select.options].map(option => option.value + '\n' + option.textContent).join('\n');
    if (now !== options.map(([id, text]) => id + '\n' + text).join('\n')) {
      select.replaceChildren(...options.map(([id, text]) => el('option', {value: id}, text)));
    }
    select.value = value;
  }

  function drawCharts(doc) {
    const lines = inOrder([...known.lines.values()]).map(line => [idOf(line.model, line.workload), line]);
    if (!known.lines.has(chosen.group) && chosen.group !== '') chosen.group = '';
    const only = lines.length === 1 ? lines[0][0] : chosen.group;
    parts.groupLabel.hidden = lines.length < 2;
    offer(parts.group, [['', `all ${lines.length}`], ...lines.map(([id, line]) => [id, groupName(line)])], chosen.group);
    const one = only ? known.lines.get(only) : null;
    parts.percentileLabel.hidden = one !== null;
    const phases = [...new Set([...known.curves.values()].map(curve => curve.phase))];
    const phase = phases.includes(chosen.phase) ? chosen.phase : phases.includes(doc.phase) ? doc.phase : phases[phases.length - 1] || '';
    parts.phaseLabel.hidden = phases.length < 2;
    offer(parts.phase, phases.map(title => [title, title]), phase);
    const shown = one ? [one] : lines.map(([, line]) => line).slice(0, MOST_LINES);
    const column = name => known.columns.indexOf(name);
    const points = (line, name) => known.seconds.map((at, i) => [at, (line.values[column(name)] || [])[i]]);
    const marks = doc.phases.filter(each => !unknown(each.start_s)).map(each => [each.start_s, each.title]);
    const time = {marks: marks.length > 1 ? marks : [], format: clock};

    plot('ttft', one
      ? PERCENTILES.map((p, i) => ({name: p, colour: [1, 3, 2][i], dash: i + 1, points: points(one, `ttft_${p}`)}))
      : shown.map(line => ({name: groupName(line), ...style(line), points: points(line, `ttft_${chosen.percentile}`)})), {...time, unit: 'ms'});
    const curves = shown.map(line => [line, known.curves.get(idOf(line.model, line.workload, phase))]).filter(([, curve]) => curve);
    plot('curve', curves.map(([line, curve]) => ({name: groupName(line), ...style(line), points: bend(curve), last: ` max, n ${count(curve.n)}`})), {unit: 'ms', log: true, format: percent});
    plot('tokens', shown.map(line => ({name: groupName(line), ...style(line), points: points(line, 'tok_s')})), {...time, unit: 'tok/s'});
    const all = one ? [one] : lines.map(([, line]) => line);
    const sum = name => known.seconds.map((at, i) => [at, total(all.map(line => (line.values[column(name)] || [])[i]))]);
    plot('load', [
      {name: 'in flight', colour: 1, dash: 1, points: sum('in_flight'), digits: count},
      {name: 'sent/s', colour: 3, dash: 1, points: sum('sent_rps')},
      {name: 'offered/s', colour: 2, dash: 2, points: sum('offered_rps')},
    ], {...time, unit: ''});
    parts.note.textContent = 'Each point is of the ten seconds before it. Latencies are of requests that ended well, on the response clock; tokens count when their request ends.' +
      (!one && lines.length > MOST_LINES ? ` The first ${MOST_LINES} of ${lines.length} groups are drawn, load is of all: choose one to see it.` : '');
  }

  function total(values) {
    const there = values.filter(value => !unknown(value));
    return there.length ? there.reduce((a, b) => a + b, 0) : null;
  }

  /* A percentile curve as [decades, ms]: 1 is 90 %, 2 is 99 %. */
  function bend(curve) {
    return curve.ms.map((ms, i) => [i < curve.ms.length - 1 ? i / 8 : Math.log10(curve.n), ms]);
  }

  const percent = decades => decades === 0 ? '0 %' : `${(100 * (1 - 10 ** -decades)).toFixed(Math.max(0, Math.ceil(decades) - 2))} %`;

  function steps(most, wanted) {
    const raw = most / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
    return Array.from({length: Math.floor(most / step + 1e-9) + 1}, (_, i) => i * step);
  }

  function timeSteps(from, to, wanted) {
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200].find(n => (to - from) / n <= wanted) || 86400;
    const first = Math.ceil(from / step) * step;
    return Array.from({length: Math.max(0, Math.floor((to - first) / step) + 1)}, (_, i) => first + i * step);
  }

  function plot(name, series, options) {
    const figure = parts.figures[name], [, legend, box] = figure.children;
    const digits = line => line.digits || short;
    const latest = line => {
      const known = line.points.filter(([, y]) => !unknown(y));
      return known.length && !unknown(line.points[line.points.length - 1][1]) ? line.points[line.points.length - 1][1] : null;
    };
    legend.replaceChildren(...series.map(line => {
      const swatch = shape('svg', {class: 'swatch', width: 22, height: 8, 'aria-hidden': 'true'});
      swatch.append(shape('path', {class: `c${line.colour} d${line.dash}`, d: 'M1 4H21'}));
      return el('li', {}, swatch, el('span', {}, line.name), el('b', {}, digits(line)(latest(line))), line.last ? el('span', {}, line.last) : null);
    }));
    const width = Math.max(240, box.clientWidth || 480), height = 210;
    const left = 46, right = 12, top = 14, bottom = 24;
    const flat = series.flatMap(line => line.points).filter(([, y]) => !unknown(y));
    const xs = series.flatMap(line => line.points.map(([x]) => x));
    const x0 = options.log ? 0 : Math.min(...xs, Infinity), x1 = options.log ? Math.max(1, ...xs) : Math.max(...xs, -Infinity);
    const peak = Math.max(...flat.map(([, y]) => y), 0) || 1;
    const ys = steps(peak * 1.05, 4), y1 = peak * 1.05;
    const x = value => left + (width - left - right) * (x1 > x0 ? (value - x0) / (x1 - x0) : 0.5);
    const y = value => top + (height - top - bottom) * (1 - value / y1);
    const said = flat.length ? series.map(line => `${line.name} ${digits(line)(latest(line))} ${options.unit}`).join(', ') : 'nothing yet';
    const svg = shape('svg', {width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${figure.firstChild.firstChild.textContent}, now: ${said}`});
    for (const tick of ys) {
      svg.append(shape('path', {class: tick ? 'grid' : 'axis', d: `M${left} ${y(tick)}H${width - right}`}));
      svg.append(shape('text', {x: left - 7, y: y(tick) + 4, 'text-anchor': 'end'}, tick >= 10000 ? `${tick / 1000}k` : short(tick).replace('.0', '')));
    }
    const wanted = Math.max(3, Math.floor(width / 90));
    const ticks = !flat.length ? [] : options.log ? [0, Math.log10(2), 1, 2, 3, 4, 5, 6].filter(tick => tick <= x1) : timeSteps(x0, x1, wanted);
    for (const tick of ticks) svg.append(shape('text', {x: x(tick), y: height - 7, 'text-anchor': 'middle'}, options.format(tick)));
    for (const [at, title] of options.marks || []) {
      if (at < x0 || at > x1) continue;
      svg.append(shape('path', {class: 'phase', d: `M${x(at)} ${top}V${height - bottom}`}));
      svg.append(shape('text', {x: x(at) + 4, y: top - 3}, title.slice(0, 24)));
    }
    for (const line of series) svg.append(shape('path', {class: `c${line.colour} d${line.dash}`, d: trace(line.points, x, y)}));
    if (!flat.length) svg.append(shape('text', {x: width / 2, y: height / 2, 'text-anchor': 'middle'}, 'nothing yet'));
    box.replaceChildren(svg);
    point(figure, svg, series, options, x);
  }

  /* A line with a gap where a value is unknown; a value alone between gaps is a dot. */
  function trace(points, x, y) {
    let path = '', pen = false;
    points.forEach(([at, value], i) => {
      if (unknown(value)) { pen = false; return; }
      const place = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      const next = points[i + 1];
      path += pen ? `L${place}` : `M${place}` + (!next || unknown(next[1]) ? 'h.01' : '');
      pen = true;
    });
    return path;
  }

  /* What the lines say at the pointer. */
  function point(figure, svg, series, options, x) {
    const places = [...new Set(series.flatMap(line => line.points.map(([at]) => at)))].sort((a, b) => a - b);
    const clear = () => { figure.querySelector('.tip')?.remove(); svg.querySelector('.rule')?.remove(); };
    clear();
    svg.addEventListener('pointerleave', clear);
    svg.addEventListener('pointermove', event => {
      clear();
      const here = event.clientX - svg.getBoundingClientRect().left;
      const at = places.reduce((best, place) => Math.abs(x(place) - here) < Math.abs(x(best) - here) ? place : best, places[0]);
      if (at === undefined) return;
      svg.append(shape('path', {class: 'rule', d: `M${x(at)} 14V186`}));
      const tip = el('div', {class: 'tip', 'aria-hidden': 'true'}, el('b', {}, options.format(at)));
      for (const line of series) {
        const found = line.points.find(([place]) => place === at);
        if (found) tip.append(el('p', {}, el('span', {class: 'muted'}, line.name), el('b', {}, (line.digits || short)(found[1]))));
      }
      figure.append(tip);
      const over = x(at) > svg.clientWidth / 2;
      tip.style.top = `${svg.getBoundingClientRect().top - figure.getBoundingClientRect().top + 16}px`;
      tip.style.left = over ? 'auto' : `${x(at) + 10}px`;
      tip.style.right = over ? `${svg.clientWidth - x(at) + 10}px` : 'auto';
    });
  }

  // -- where it stands -------------------------------------------------------------------------

  const standalone = document.getElementById('loadlib-live');

  /* Dark where the page around it is: Locust keeps its choice to itself. */
  function theme() {
    let dark = matchMedia('(prefers-color-scheme: dark)').matches;
    if (standalone) {
      try { dark = localStorage.theme ? localStorage.theme === 'dark' : dark; } catch { /* no storage */ }
      document.documentElement.dataset.theme = dark ? 'dark' : 'light';
    } else {
      const paint = (getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g) || []).map(Number);
      if (paint.length >= 3 && paint[3] !== 0) {
        dark = paint[0] + paint[1] + paint[2] < 384;
        host.style.setProperty('--page', `rgb(${paint.slice(0, 3).join(' ')})`);
      }
    }
    host.dataset.theme = dark ? 'dark' : 'light';
  }

  /* In our tab, after the tabs, instead of the plain table; nowhere else. */
  function place() {
    openFields();
    const mine = new URL(location.href).searchParams.get('tab') === TAB;
    const tabs = document.querySelector('[role=tablist]');
    const around = tabs && tabs.closest('.MuiContainer-root');
    if (!mine || !around) {
      host.remove();
      return;
    }
    if (host.parentElement !== around) {
      around.append(host);
      draw();
      poll();
    }
    for (const child of around.children) {
      if (child !== host && !child.contains(tabs) && !child.hidden) child.hidden = true;
    }
  }

  /* Ours are behind "Custom parameters" in Locust's form, closed: open them once. */
  let opened = null;
  function openFields() {
    const form = document.querySelector('form');
    if (!form || form === opened) return;
    const shut = [...form.querySelectorAll('[aria-expanded=false]')].find(node => node.textContent.trim() === 'Custom parameters');
    opened = form;
    if (shut) shut.click();
  }

  build();
  if (standalone) {
    standalone.replaceChildren(host);
    draw();
  } else {
    new MutationObserver(place).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ['class']});
    addEventListener('popstate', place);
    place();
  }
  document.addEventListener('visibilitychange', poll);
  poll();
})();

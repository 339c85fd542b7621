// The console: it shows the events of /events. What comes from the site is put in as text
// only (textContent), never as HTML; the policy of the page forbids that, too.
'use strict';

const SVG = 'http://www.w3.org/2000/svg';
const PAST = 15 * 60;      // seconds that the plots show
const SILENT = 4;          // seconds without news until the page says so
const AGAIN = 15;          // seconds without news until the page opens a new stream
const $ = (id) => document.getElementById(id);

// -- words ------------------------------------------------------------------------

function count(value) {
  return value == null ? '–' : value.toLocaleString('en');
}

function age(seconds) {
  if (seconds == null) return '–';
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const units = [[86400, 'd', 3600, 'h'], [3600, 'h', 60, 'min'], [60, 'min', 1, 's']];
  const [big, name, small, rest] = units.find(([unit]) => seconds >= unit);
  const more = Math.floor((seconds % big) / small);
  return `${Math.floor(seconds / big)} ${name}` + (more ? ` ${more} ${rest}` : '');
}

function took(seconds) {
  if (seconds == null) return '–';
  if (seconds >= 1) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}

function rate(value) {
  return value == null ? '–' : value.toFixed(value < 10 ? 1 : 0);
}

function memory(bytes) {
  if (bytes == null) return '–';
  const mega = bytes / 1048576;
  return mega < 1024 ? `${Math.round(mega)} MB` : `${(mega / 1024).toFixed(1)} GB`;
}

const seconds = () => performance.now() / 1000;

const clock = (time) => new Date(time * 1000).toLocaleTimeString('en-GB');

// -- elements ---------------------------------------------------------------------

// Returns a new element: its attributes, and texts or elements to be inside of it.
function make(name, attributes, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside.filter((one) => one != null));
  return element;
}

// Replaces what is inside of an element only if it differs, so that a selection stays.
function fill(element, children) {
  const old = [...element.children];
  children.forEach((child, i) => {
    if (old[i] === undefined) element.append(child);
    else if (!old[i].isEqualNode(child)) old[i].replaceWith(child);
  });
  old.slice(children.length).forEach((one) => one.remove());
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const cell = (text, kind = '') => make('td', kind ? { class: kind } : {}, String(text));
const tag = (text, kind) => make('span', { class: `tag ${kind}` }, String(text));

function bar(value, most) {
  if (!most || value == null) return null;
  return make('progress', { value, max: most, 'aria-hidden': 'true' });
}

// -- what an event says -----------------------------------------------------------

const STATES = {
  STARTED: ['Started', 'good'], STARTING: ['Starting', 'warn'], DRAINING: ['Draining', 'warn'],
  STOPPING: ['Stopping', 'warn'], STOPPED: ['Stopped', 'bad'], EXITING: ['Ending', 'warn'],
};

function stateOf(news) {
  if (news.renewing) return ['Reloading', 'warn'];
  if (news.drained) return ['Drained', 'warn'];
  return STATES[news.state] || [news.state, 'warn'];
}

function showHead(news) {
  const file = news.site.ini || '';
  const name = file.split('/').slice(-2).join('/') || 'Console';
  say($('name'), name);
  say($('about'), [file, ...(news.site.urls || [])].filter(Boolean).join(' · '));
  const title = `${stateOf(news)[0]} · ${name}`;
  if (document.title !== title) document.title = title;
}

function showTiles(news) {
  const site = news.site, last = past.at(-1);
  const isNew = last && news.time - last.time < 20;
  const [state, kind] = stateOf(news);
  const late = [[site.slow_requests, 'slow'], [site.overdue_requests, 'overdue']];
  const all = [
    ['State', state, '', kind],
    ['Started', age(site.age), ' ago'],
    ['Generation', count(site.generation)],
    site.wanted == null ? ['Memory', memory(news.workers[0]?.rss)]
      : ['Workers', count(site.serving), ` of ${count(site.wanted)}`,
        site.serving === 0 ? 'bad' : site.serving < site.wanted ? 'warn' : ''],
    ['Served', count(site.served),
      late.filter(([many]) => many).map(([many, what]) => ` ${count(many)} ${what}`).join()],
    ['Requests / s', isNew ? rate(last.rate) : '–'],
    ['Latency (95 %)', isNew ? took(last.most) : '–'],
    ['In flight', count(site.in_flight)],
    ['Busy threads', count(site.busy),
      site.server_threads == null ? '' : ` of ${count(site.server_threads)}`,
      site.server_threads && site.busy >= site.server_threads ? 'warn' : ''],
    ['Waiting', count(site.queued), '', site.queued ? 'warn' : ''],
  ];
  fill($('tiles'), all.map(([name, value, more = '', how = '']) =>
    make('div', {}, make('dt', {}, name),
      make('dd', { class: how }, value, more ? make('small', {}, more) : null))));
}

// Returns what is wrong, and how bad that is.
function problem(news) {
  const site = news.site, waits = Math.max(news.waits, news.answered || 0);
  if (waits > 3) {
    return [`The site has not answered for ${age(waits)}. What is below is from then.`, 'bad'];
  }
  if (news.error) return [news.error, 'bad'];
  if (site.crash_loop) return [site.crash_loop, 'bad'];
  if (news.why) {
    return [`The site is not ready: ${news.why}.`, news.state === 'STARTED' ? 'bad' : ''];
  }
  const [last] = news.reloads;
  if (last && last.outcome === 'failed') {
    return [`The last reload failed, ${age(last.age)} ago: ${last.reason}`, ''];
  }
  if (site.calling && typeof site.calling === 'object') {
    const { channel, listener, age: runs } = site.calling;
    if (runs > 1) return [`The '${channel}' listener ${listener} has run for ${age(runs)}.`, ''];
  }
  return ['', ''];
}

function notice([text, kind]) {
  const element = $('notice');
  element.hidden = !text;
  element.className = `notice ${kind}`;
  say(element, text);
}

const KINDS = { ready: 'good', started: 'good', crashed: 'bad', ended: 'bad', 'no answer': 'bad',
  stopped: 'bad', spare: '' };

function showWorkers(news) {
  const rows = news.workers, most = Math.max(...rows.map((one) => one.rss || 0));
  $('s-workers').hidden = !rows.length;
  fill($('workers'), rows.map((one) => {
    const state = one.is_stopped ? 'stopped' : String(one.state).toLowerCase();
    const threads = one.busy == null ? '–'
      : count(one.busy) + (one.server_threads == null ? '' : `/${count(one.server_threads)}`);
    return make('tr', {},
      make('th', { scope: 'row' }, String(one.name)),
      make('td', {}, tag(state, KINDS[state] ?? 'warn')),
      cell(count(one.served), 'n'), cell(count(one.in_flight), 'n'),
      make('td', { class: 'n' }, memory(one.rss), bar(one.rss, most)),
      cell(age(one.age), 'n'), cell(count(one.generation), 'n'),
      make('td', { class: 'n' }, threads, bar(one.busy || 0, one.server_threads)),
      cell(count(one.restarts), one.restarts ? 'n bad' : 'n'), cell(one.pid, 'n'));
  }));
}

// Who has the lease, as far as that is known.
function leaseOf(cluster) {
  const names = (cluster.plugins || []).join(', ');
  if (!names && !cluster.leader) return '';
  const which = names ? ` (${names})` : '';
  const since = cluster.leads_for == null ? '' : ` for ${age(cluster.leads_for)}`;
  if (cluster.holds) {
    return `This machine has had the lease of the cluster plugins${which}${since}, with the `
      + `fence ${cluster.fence}.`;
  }
  const who = cluster.leader ? `${cluster.leader} has had it${since}`
    : cluster.leader === '' ? 'nobody has it now' : 'it is not known who has it';
  if (cluster.rests != null) {
    return `The cluster plugins${which} crash again and again here. This machine wants their `
      + `lease again in ${age(cluster.rests)}; ${who}.`;
  }
  return `The lease of the cluster plugins${which}: ${who}.`;
}

function engineOf(cluster) {
  if (cluster.answers) {
    const trip = cluster.round_trip == null ? '' : `; a round trip takes ${took(cluster.round_trip)}`;
    return `The engine is ${cluster.engine}${trip}.`;
  }
  const since = cluster.last_word == null ? '' : ` for ${age(cluster.last_word)}`;
  return `There is no word from ${cluster.engine}${since}: `
    + `${cluster.problem || 'it has not answered yet'}.`;
}

function machineState(one) {
  if (one.is_silent) return ['silent', 'bad'];
  if (one.renewing) return ['reloading', 'warn'];
  if (one.drained) return ['drained', 'warn'];
  const state = String(one.state ?? 'unknown').toLowerCase();
  return [state, state === 'started' ? 'good' : 'warn'];
}

// What a silent machine does is not known: only its name and the age of its last word are shown.
function showMachines(news) {
  const cluster = news.cluster;
  $('s-machines').hidden = !cluster;
  if (!cluster) return;
  const names = cluster.machines.map((one) => one.machine);
  say($('of-cluster'), `(${cluster.name}, seen from ${cluster.machine})`);
  say($('lease'), [engineOf(cluster), leaseOf(cluster)].filter(Boolean).join(' '));
  const isBad = cluster.answers === false || (cluster.rests != null && !cluster.holds);
  $('lease').className = isBad ? 'bad' : 'soft';
  const roll = cluster.roll && cluster.roll.text ? cluster.roll : null;
  $('roll').hidden = !roll;
  say($('roll'), roll ? roll.text : '');
  $('roll').className = roll && roll.state !== 'rolls' ? 'bad' : 'soft';
  $('t-machines').hidden = !cluster.machines.length;
  $('more-machines').hidden = !cluster.more;
  say($('more-machines'), `${count(cluster.more)} more machines.`);
  fill($('machines'), cluster.machines.map((one) => {
    const twice = names.indexOf(one.machine) !== names.lastIndexOf(one.machine);
    const known = (value) => (one.is_silent || value == null ? '–' : String(value));
    const serving = one.is_silent || one.wanted == null ? '–'
      : `${count(one.serving)}/${count(one.wanted)}`;
    return make('tr', {},
      make('th', { scope: 'row' }, String(twice ? one.id : one.machine)),
      make('td', {}, tag(...machineState(one))),
      cell(known(one.release)), cell(known(one.version)), cell(known(one.generation), 'n'),
      cell(serving, !one.is_silent && one.serving < one.wanted ? 'n warn' : 'n'),
      cell(known((one.leads || []).join(', ') || null)),
      cell(`${age(one.age)} ago`, one.is_silent ? 'n bad' : 'n'));
  }));
}

function showRequests(news) {
  const rows = news.requests, total = Math.max(news.site.in_flight || 0, rows.length);
  say($('in-flight'), total ? `(${count(total)})` : '');
  $('t-requests').hidden = !rows.length;
  $('no-requests').hidden = rows.length > 0;
  fill($('requests'), rows.map((one) => make('tr', {},
    cell(age(one.age), one.age > 30 ? 'n bad' : one.age > 5 ? 'n warn' : 'n'),
    make('td', { class: 'path' }, make('b', {}, String(one.method)), ` ${one.path}`),
    cell(one.worker ?? 'site'), cell(one.thread ?? '–'))));
}

function showReloads(news) {
  $('no-reloads').hidden = news.reloads.length > 0;
  fill($('reloads'), news.reloads.map((one) => {
    const kind = { served: 'good', failed: 'bad' }[one.outcome] || 'warn';
    const how = one.took == null ? `for ${age(one.age)}` : `in ${took(one.took)}`;
    const now = one.generation == null ? '' : `, generation ${count(one.generation)}`;
    return make('li', {},
      make('div', {}, tag(one.outcome, kind), make('span', {}, `${how}${now}`),
        make('time', { class: 'soft', datetime: new Date(one.time * 1000).toISOString() },
          clock(one.time))),
      make('p', { class: 'soft' }, `Asked for by ${one.asked_by}`),
      one.reason ? make('p', {}, String(one.reason)) : null);
  }));
}

function showChecks(news) {
  $('no-checks').hidden = news.checks.length > 0;
  fill($('checks'), news.checks.map((one) => {
    const [text, kind] = one.ok == null ? ['waits', ''] : one.ok ? ['works', 'good'] : ['fails', 'bad'];
    const many = one.processes > 1 && one.ok === false
      ? ` (in ${one.failed} of ${one.processes} processes)` : '';
    return make('li', {},
      make('div', {}, tag(text, kind), make('span', {}, one.name + many),
        make('span', { class: 'soft' }, one.age == null ? '' : `${age(one.age)} ago`)),
      one.text ? make('p', { class: 'soft' }, String(one.text)) : null);
  }));
}

// The picture is loaded anew only after something that is in it.
let drawn = '';
function showTimeline(news) {
  const last = news.reloads[0] || {};
  const key = [news.state, news.site.pid, last.time, last.outcome].join();
  if (key === drawn) return;
  drawn = key;
  const image = $('timeline');
  image.onload = () => { image.hidden = image.naturalHeight < 40; };
  image.onerror = () => { image.hidden = true; };
  image.src = `timeline.svg?${Date.now()}`;
}

// -- plots ------------------------------------------------------------------------

let past = [];   // points of the history: see Point in history.py

const PLOTS = [
  { id: 'rate', lines: ['rate', 'failed'], area: 'rate', what: 'Requests a second', text: rate },
  { id: 'time', lines: ['most', 'half'], what: 'Latency', text: took },
];

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text != null) element.textContent = text;
  return element;
}

function ceiling(value) {
  if (!value) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((one) => one >= value * 0.999);
}

// Returns the parts of a line, between which there is nothing.
function parts(points, key) {
  const found = [];
  let before = null;
  for (const point of points) {
    if (point[key] == null) { before = null; continue; }
    if (!before || point.time - before.time > 2 * point.seconds + 1) found.push([]);
    found.at(-1).push(point);
    before = point;
  }
  return found;
}

function showPlot(plot, now) {
  const svg = $(plot.id), { width, height } = svg.getBoundingClientRect();
  const left = 46, right = width - 8, top = 8, bottom = height - 20;
  const points = past.filter((point) => point.time > now - PAST);
  const values = points.flatMap((point) => plot.lines.map((key) => point[key] || 0));
  const most = ceiling(Math.max(0, ...values));
  const x = (time) => left + (right - left) * (1 - (now - time) / PAST);
  const y = (value) => bottom - (bottom - top) * value / most;
  const inside = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(most * share);
    inside.push(draw('line', { x1: left, x2: right, y1: at, y2: at }),
      draw('text', { x: left - 6, y: at + 4, 'text-anchor': 'end' }, share ? plot.text(most * share) : '0'));
  }
  for (const minutes of [15, 10, 5, 0]) {
    const anchor = { 15: 'start', 0: 'end' }[minutes] || 'middle';
    inside.push(draw('text', { x: x(now - minutes * 60), y: height - 4, 'text-anchor': anchor },
      minutes ? `−${minutes} min` : 'now'));
  }
  for (const key of [...plot.lines].reverse()) {
    for (const part of parts(points, key)) {
      const line = part.map((point) => `${x(point.time).toFixed(1)} ${y(point[key]).toFixed(1)}`);
      const d = `M${line.join('L')}${part.length < 2 ? 'h0.01' : ''}`;
      if (key === plot.area) {
        const ends = [part.at(-1), part[0]].map((point) => `${x(point.time).toFixed(1)} ${bottom}`);
        inside.push(draw('path', { class: 'area', d: `${d}L${ends.join('L')}Z` }));
      }
      inside.push(draw('path', { class: key, d }));
    }
  }
  const at = points.find((point) => point.time === plot.at);
  if (at) inside.push(draw('line', { class: 'cursor', x1: x(at.time), x2: x(at.time), y1: top, y2: bottom }));
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.replaceChildren(...inside);
  const last = points.at(-1);
  const highest = plot.text(Math.max(0, ...values));
  svg.setAttribute('aria-label', last
    ? `${plot.what} in the last 15 minutes: now ${plot.text(last[plot.lines[0]])}, at most ${highest}`
    : `${plot.what}: nothing is known yet`);
  say($(`${plot.id}-at`), at ? `${clock(at.time)}: ${plot.lines.map((key) => plot.text(at[key])).join(' · ')}` : '');
  plot.find = (px) => points.reduce((best, point) =>
    !best || Math.abs(x(point.time) - px) < Math.abs(x(best.time) - px) ? point : best, null);
}

function watchPointer(plot) {
  const svg = $(plot.id);
  svg.addEventListener('pointermove', (event) => {
    plot.at = plot.find?.(event.clientX - svg.getBoundingClientRect().left)?.time;
    showPlot(plot, latest);
  });
  svg.addEventListener('pointerleave', () => {
    plot.at = null;
    showPlot(plot, latest);
  });
}

// -- the stream -------------------------------------------------------------------

let stream = null, heard = seconds(), latest = Date.now() / 1000, since = null, why = '';

function open() {
  stream?.close();
  heard = seconds();   // it has some seconds to begin
  stream = new EventSource('events');
  stream.addEventListener('history', (event) => {
    past = JSON.parse(event.data).points.map(([time, length, all, failed, half, most]) =>
      ({ time, seconds: length, rate: all, failed, half, most }));
  });
  stream.addEventListener('news', (event) => show(JSON.parse(event.data)));
  stream.addEventListener('end', () => {
    why = 'The ops listener has ended: the site stops or restarts. '
      + 'What is below is from before; this page tries again by itself.';
    ended();
  });
  stream.addEventListener('broken', (event) => {
    why = `The ops listener cannot show the site: ${JSON.parse(event.data).why}.`;
    ended();
  });
  stream.addEventListener('full', () => {
    why = 'Another console has taken the place of this one: 8 are possible at once.';
    ended();
  });
}

function ended() {
  heard = Math.min(heard, seconds() - SILENT);
  look();
}

function show(news) {
  heard = seconds();
  [latest, since, why] = [news.time, null, ''];
  $('live').dataset.is = 'live';
  say($('live'), 'Live');
  document.querySelector('main').classList.remove('is-old');
  notice(problem(news));
  for (const part of [showHead, showTiles, showWorkers, showMachines, showRequests, showReloads,
    showChecks, showTimeline]) part(news);
  for (const plot of PLOTS) showPlot(plot, latest);
}

// Says that there is no news, and asks for a new stream if the browser does not.
function look() {
  if (document.hidden) return;
  const silent = seconds() - heard;
  if (silent < SILENT) return;
  since ??= clock(latest);
  $('live').dataset.is = 'gone';
  say($('live'), `No news since ${since}`);
  document.querySelector('main').classList.add('is-old');
  notice([why || `The ops listener has not answered since ${since}. What is below is from then; `
    + 'this page tries again by itself.', 'bad']);
  if (stream.readyState === EventSource.CLOSED || (silent > AGAIN && !why)) open();
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) stream.close();   // nothing is asked for a page that nobody sees
  else open();
});
for (const plot of PLOTS) watchPointer(plot);
new ResizeObserver(() => PLOTS.forEach((plot) => showPlot(plot, latest))).observe($('rate'));
setInterval(look, 1000);
open();

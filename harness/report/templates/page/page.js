"use strict";
// The page's own script: the theme, printing, and the viewer of trajectories. It loads nothing and sends nothing.

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// ---------------------------------------------------------------- theme and printing

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const root = document.documentElement;

function showTheme() {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  themeButton.textContent = isDark ? "Light theme" : "Dark theme";
}

themeButton.addEventListener("click", () => {
  root.dataset.theme = themeButton.textContent === "Light theme" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a file may have no storage */ }
  showTheme();
});
try { const kept = localStorage.getItem("theme"); if (kept === "light" || kept === "dark") root.dataset.theme = kept; } catch { /* as above */ }
dark.addEventListener("change", showTheme);
showTheme();

const wide = window.matchMedia("(min-width: 64rem)");
const foldContents = () => { document.querySelector(".side details").open = wide.matches; };
wide.addEventListener("change", foldContents);
foldContents();

let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const closed of opened) closed.open = true;
});
window.addEventListener("afterprint", () => { for (const closed of opened) closed.open = false; });

// ---------------------------------------------------------------- trajectories

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const number = (value) => value === null || value === undefined ? "–" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
const signed = (value) => value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + number(value);
const outcomeOf = (entry) => { const won = entry.won.reduce((a, b) => a + b, 0); return won === 0 ? "none" : won === entry.won.length ? "all" : "mixed"; };
// Marks that reorder text would make a token look like another.
const safe = (text) => text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const visible = (token) => safe(token).replace(/\n/g, "⏎").replace(/^ $/, "␣") || "∅";

class Viewer {
  constructor(element) {
    this.element = element;
    this.section = element.dataset.section;
    this.data = JSON.parse(document.getElementById(element.id + "-data").textContent);
    this.kept = new Map();
    this.state = { group: Math.max(0, this.data.index.findIndex((entry) => outcomeOf(entry) === "mixed")), sibling: 0, token: -1, method: 0 };
    this.filters = element.querySelector(".filters");
    this.list = element.querySelector(".groups");
    this.shown = element.querySelector(".shown");
    this.details = element.querySelector(".details");
    this.choose = Object.fromEntries(["method", "channel", "view"].map((name) => [name, element.querySelector(`[name=${name}]`)]));
    this.data.methods.forEach((method, place) => this.choose.method.append(new Option(method.name, place)));
    const ends = [...new Set(this.data.index.flatMap((entry) => entry.ends))].filter(Boolean).sort();
    for (const end of ends) this.filters.elements.ending.append(new Option(end.replace(/_/g, " "), end));
    this.choose.channel.append(new Option("credit: the whole loss", "credit"));
    if (this.data.truth) this.choose.channel.append(new Option("re-rolled truth", "truth"));
    element.hidden = false;
    this.listen();
    this.filter();
  }

  listen() {
    this.filters.addEventListener("submit", (event) => event.preventDefault());
    this.filters.addEventListener("input", () => this.filter());
    this.choose.method.addEventListener("change", () => this.go({ method: Number(this.choose.method.value) }));
    for (const name of ["channel", "view"]) this.choose[name].addEventListener("change", () => this.draw());
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.go({ group: Number(button.dataset.group), sibling: 0, token: -1 });
    });
    this.element.addEventListener("click", (event) => {
      const step = event.target.closest("[data-do]");
      if (step) this.step(step.dataset.do === "next" ? 1 : -1);
      const token = event.target.closest(".t");
      if (token) this.chooseToken(token);
    });
    this.shown.addEventListener("focusin", (event) => { if (event.target.matches(".t")) this.chooseToken(event.target); });
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const steps = { j: 1, k: -1 };
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === "Escape") this.close();
    else if (event.key === "m") this.go({ method: (this.state.method + 1) % this.data.methods.length });
    else if (event.target.matches(".t")) {
      const across = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const down = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const card = event.target.closest(".card");
      const tokens = [...card.querySelectorAll(".t")];
      const cards = [...this.shown.querySelectorAll(".card")];
      if (across) tokens[tokens.indexOf(event.target) + across]?.focus();
      else if (down) {
        const there = cards[cards.indexOf(card) + down]?.querySelectorAll(".t");
        if (there) there[Math.min(tokens.indexOf(event.target), there.length - 1)]?.focus();
      } else return;
      event.preventDefault();
    }
  }

  // ------------------------------------------------------------ which groups

  filter() {
    const wanted = Object.fromEntries(["task", "outcome", "ending"].map((name) => [name, this.filters.elements[name].value]));
    this.there = this.data.index.map((entry, place) => place).filter((place) => {
      const entry = this.data.index[place];
      return entry.task.toLowerCase().includes(wanted.task.toLowerCase())
        && (!wanted.outcome || outcomeOf(entry) === wanted.outcome)
        && (!wanted.ending || entry.ends.includes(wanted.ending));
    });
    this.list.replaceChildren(...this.there.map((place) => this.item(place)));
    this.element.querySelector(".count").textContent = `${this.there.length} of ${this.data.index.length} groups`;
    if (this.there.length && !this.there.includes(this.state.group)) this.go({ group: this.there[0], sibling: 0, token: -1 });
    else this.mark();
  }

  item(place) {
    const entry = this.data.index[place];
    const button = make("button", "", safe(entry.task));
    button.type = "button";
    button.dataset.group = place;
    const counts = {};
    for (const end of entry.ends) if (end && end !== "completed") counts[end] = (counts[end] || 0) + 1;
    const ends = Object.entries(counts).map(([end, count]) => `, ${count} ${end.replace(/_/g, " ")}`).join("");
    button.append(make("small", "", `${entry.won.reduce((a, b) => a + b, 0)} of ${entry.won.length} solved${ends}`));
    return button;
  }

  mark() {
    for (const button of this.list.children) {
      const here = Number(button.dataset.group) === this.state.group;
      button.setAttribute("aria-pressed", String(here));
      if (here && this.drawn) button.scrollIntoView?.({ block: "nearest", container: "nearest" });
    }
  }

  step(by) {
    const place = this.there.indexOf(this.state.group);
    const next = this.there[Math.min(this.there.length - 1, Math.max(0, place + by))];
    if (next !== undefined && next !== this.state.group) this.go({ group: next, sibling: 0, token: -1 });
  }

  // ------------------------------------------------------------ what is shown

  async go(change, remember = true) {
    Object.assign(this.state, change);
    this.choose.method.value = this.state.method;
    if (remember) this.remember();
    await this.draw();
  }

  remember() {
    const { group, sibling, token, method } = this.state;
    const link = `#${this.section}/${group}/${sibling}/${token}/${method}`;
    try { history.replaceState(null, "", link); } catch { location.hash = link; }
  }

  async draw() {
    const place = this.state.group;
    if (!this.kept.has(place)) {
      if (this.kept.size > 64) this.kept.clear();
      this.kept.set(place, await unpacked(this.data.groups[place]));
    }
    if (place !== this.state.group) return; // another group was chosen meanwhile
    this.group = this.kept.get(place);
    this.channels();
    this.scale = this.largest();
    const cards = this.choose.view.value === "methods"
      ? this.data.methods.map((method, m) => this.card(this.state.sibling, m, method.name))
      : this.group.siblings.map((sibling, s) => this.card(s, this.state.method));
    const focused = this.shown.contains(document.activeElement);
    this.shown.classList.toggle("methods", this.choose.view.value === "methods");
    this.shown.replaceChildren(...cards);
    this.drawn = true;
    this.mark();
    this.legend();
    const token = this.here() || this.shown.querySelector(".t");
    if (token) token.tabIndex = 0;
    if (focused && token) token.focus({ preventScroll: true });
    this.describe();
  }

  channels() {
    // What this group holds besides credit: teacher gap and the weights of each method's terms.
    const name = this.data.methods[this.state.method].name;
    const known = this.group.siblings.some((sibling) => sibling.gap?.[name]) ? [["gap", "teacher gap, nats"]] : [];
    for (const stream of new Set(this.group.siblings.flatMap((sibling) => Object.keys(sibling.weight?.[name] || {})))) known.push(["weight " + stream, `weight: ${stream}`]);
    const select = this.choose.channel;
    const chosen = select.value;
    for (const option of [...select.options]) if (option.value === "gap" || option.value.startsWith("weight ")) option.remove();
    for (const [value, text] of known) select.append(new Option(text, value));
    select.value = [...select.options].some((option) => option.value === chosen) ? chosen : "credit";
  }

  values(s, m) {
    const sibling = this.group.siblings[s];
    const name = this.data.methods[m].name;
    const channel = this.choose.channel.value;
    if (channel === "truth") return sibling.truth;
    if (channel === "gap") return sibling.gap?.[name];
    if (channel.startsWith("weight ")) return sibling.weight?.[name]?.[channel.slice(7)];
    return sibling.credit?.[name];
  }

  largest() {
    // One scale for a method's siblings; each method has its own, for their units differ.
    return this.data.methods.map((method, m) => Math.max(1e-12, ...this.group.siblings.flatMap((sibling, s) => (this.values(s, m) || []).map((value) => Math.abs(value || 0)))));
  }

  card(s, m, title) {
    const sibling = this.group.siblings[s];
    const values = this.values(s, m) || [];
    const card = make("section", "card");
    const head = make("h4", "", title || `Sibling ${s + 1}`);
    head.append(make("span", sibling.success ? "won" : "lost", sibling.success ? "✓ solved" : "✗ not solved"));
    if (sibling.reward !== undefined) head.append(make("span", "", `reward ${number(sibling.reward)}`));
    if (sibling.ending) head.append(make("span", "", sibling.ending.replace(/_/g, " ")));
    if (title) head.append(make("span", "", `largest ${number(this.scale[m])}`));
    card.append(head);
    const [fork, other] = this.fork(s);
    const truth = Math.max(1e-12, ...this.group.siblings.flatMap((one) => (one.truth || []).map((value) => Math.abs(value || 0))));
    let line = null;
    sibling.tokens.forEach((token, place) => {
      const turn = sibling.turns[place];
      if (!line || turn !== sibling.turns[place - 1]) {
        if (!title || (place === 0 && m === 0)) for (const [role, text] of sibling.before?.[turn] || []) card.append(this.reply(role, text));
        for (const [from, turns] of title ? [] : sibling.forgot || []) if (from === turn) card.append(make("div", "reply brief", `The window was full: from here on the policy no longer reads turn${turns > 1 ? `s 1 to ${turns}` : " 1"}.`));
        if (!title || !line) line = card.appendChild(make("div", "turn"));
        line.setAttribute("role", "group");
        line.setAttribute("aria-label", title ? `Tokens of sibling ${s + 1} under ${title}` : `Turn ${turn + 1} of sibling ${s + 1}`);
      }
      if (place === fork) line.append(make("span", "fork", `↳ leaves sibling ${other + 1}`));
      line.append(this.token(s, m, place, visible(token), values[place], sibling.truth?.[place], truth));
    });
    if (!title) for (const [role, text] of sibling.after || []) card.append(this.reply(role, text));
    return card;
  }

  reply(role, text) {
    const reply = make("div", text.length < 60 && !text.includes("\n") ? "reply brief" : "reply");
    reply.append(make("b", "", role === "user" || role === "tool" ? "environment" : role), safe(text));
    if (text.length > 600) { reply.tabIndex = 0; reply.setAttribute("role", "region"); reply.setAttribute("aria-label", "Reply"); }
    return reply;
  }

  token(s, m, place, text, value, truth, truthScale) {
    const button = make("button", "t", text);
    button.type = "button";
    button.tabIndex = -1;
    Object.assign(button.dataset, { s, m, place });
    const colour = (share, of = "") => `rgb(var(--${of}${share > 0 ? "up" : "down"}) / ${Math.min(1, Math.abs(share)).toFixed(3)})`;
    if (value) button.style.backgroundColor = colour(value / this.scale[m]);
    if (truth) button.style.setProperty("--bar", colour(truth / truthScale, "bar-"));
    button.setAttribute("aria-label", `${text}, ${signed(value)}`);
    button.setAttribute("aria-pressed", String(this.isHere(s, m, place)));
    button.title = `${signed(value)}`;
    return button;
  }

  fork(s) {
    // Where a sibling leaves the nearest one of the other outcome: the one it shares most tokens with.
    const mine = this.group.siblings[s];
    let best = [-1, -1];
    this.group.siblings.forEach((other, o) => {
      if (o === s || other.success === mine.success) return;
      let place = 0;
      while (place < mine.tokens.length && mine.tokens[place] === other.tokens[place]) place += 1;
      if (place > best[0]) best = [place, o];
    });
    return best;
  }

  legend() {
    const legend = this.element.querySelector(".legend");
    const every = this.choose.view.value === "methods";
    const most = number(this.scale[this.state.method]);
    legend.replaceChildren(make("span", "", every ? "−" : `−${most}`), make("span", "ramp"), make("span", "", every ? "+ (each method on its own scale)" : `+${most}`));
    legend.append(make("span", "", `${this.choose.channel.selectedOptions[0].text}${this.data.truth ? "; bar below: truth" : ""}`));
  }

  // ------------------------------------------------------------ one token

  isHere(s, m, place) {
    const every = this.choose.view.value === "methods";
    return place === this.state.token && s === this.state.sibling && (!every || m === this.state.method);
  }

  here() {
    return [...this.shown.querySelectorAll(".t")].find((token) => token.getAttribute("aria-pressed") === "true");
  }

  chooseToken(token) {
    const { s, m, place } = token.dataset;
    Object.assign(this.state, { sibling: Number(s), token: Number(place), method: Number(m) });
    this.choose.method.value = this.state.method;
    for (const other of this.shown.querySelectorAll('.t[aria-pressed="true"], .t[tabindex="0"]')) { other.setAttribute("aria-pressed", "false"); other.tabIndex = -1; }
    token.setAttribute("aria-pressed", "true");
    token.tabIndex = 0;
    this.remember();
    this.describe();
  }

  describe() {
    const { sibling: s, token: place } = this.state;
    const sibling = this.group.siblings[s];
    if (!sibling || place < 0 || place >= sibling.tokens.length) { this.details.replaceChildren(); return; }
    const said = [`Sibling ${s + 1}, turn ${sibling.turns[place] + 1}, token ${place + 1}: “${visible(sibling.tokens[place])}”`];
    if (sibling.logprobs) said.push(`sampled with probability ${number(Math.exp(sibling.logprobs[place]))}`);
    if (sibling.truth) said.push(`truly worth ${signed(sibling.truth[place])}${sibling.error ? ` ± ${number(sibling.error[place])}` : ""} of success`);
    const streams = [...new Set(Object.values(sibling.weight || {}).flatMap(Object.keys))];
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Method", "Credit", ...(sibling.gap ? ["Teacher gap"] : []), ...streams.map((stream) => `Weight: ${stream}`)]) {
      const cell = head.appendChild(make("th", "", title));
      cell.scope = "col";
    }
    const body = table.createTBody();
    for (const { name } of this.data.methods) {
      const row = body.insertRow();
      row.appendChild(make("th", "", name)).scope = "row";
      row.insertCell().textContent = signed(sibling.credit?.[name]?.[place]);
      if (sibling.gap) row.insertCell().textContent = signed(sibling.gap[name]?.[place]);
      for (const stream of streams) row.insertCell().textContent = signed(sibling.weight[name]?.[stream]?.[place]);
    }
    const scroll = make("div", "scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Every method's credit of this token");
    scroll.append(table);
    const close = make("button", "quiet", "Close");
    close.type = "button";
    close.addEventListener("click", () => this.close());
    this.details.replaceChildren(close, make("p", "lead", said.join("; ") + "."), scroll);
  }

  close() {
    const token = this.here();
    this.state.token = -1;
    this.remember();
    this.details.replaceChildren();
    token?.setAttribute("aria-pressed", "false");
  }

  // ------------------------------------------------------------ deep links

  async follow(parts) {
    const [group, sibling, token, method] = parts.map(Number);
    const within = (value, size) => Number.isInteger(value) && value >= 0 && value < size;
    if (!within(group, this.data.index.length)) return;
    await this.go({ group, sibling: within(sibling, 1e6) ? sibling : 0, token: Number.isInteger(token) ? token : -1, method: within(method, this.data.methods.length) ? method : 0 }, false);
    const target = this.here() || document.getElementById(this.section);
    target.scrollIntoView({ behavior: "instant", block: this.here() ? "center" : "start" });
  }
}

const viewers = new Map();
for (const element of document.querySelectorAll(".viewer")) {
  // Drawn when it comes near the window: a page with many opens at once.
  new IntersectionObserver((seen, observer) => {
    if (seen.some((entry) => entry.isIntersecting)) { observer.disconnect(); viewerOf(element.dataset.section)?.draw(); }
  }, { rootMargin: "600px" }).observe(document.getElementById(element.dataset.section));
}

function viewerOf(section) {
  const element = document.querySelector(`.viewer[data-section="${CSS.escape(section)}"]`);
  if (element && !viewers.has(section)) viewers.set(section, new Viewer(element));
  return viewers.get(section);
}

function followLink() {
  const [section, ...parts] = decodeURIComponent(location.hash.slice(1)).split("/");
  if (parts.length && section) viewerOf(section)?.follow(parts);
}

window.addEventListener("hashchange", followLink);
followLink();

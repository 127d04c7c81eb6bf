"use strict";
// Only adds comfort: everything on the page is there without it.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const remember = (key, value) => { try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; } };
const make = (name, text, parent) => { const e = document.createElement(name); e.textContent = text; parent.append(e); return e; };

// Theme
const root = document.documentElement;
const paint = theme => { if (theme) root.dataset.theme = theme; };
paint(remember("diag-theme"));
const turn = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  paint(dark ? "light" : "dark");
  remember("diag-theme", root.dataset.theme);
};

// Sorting: a click on a column's name
const value = (row, at) => { const c = row.cells[at]; return c === undefined ? "" : c.dataset.v !== undefined ? Number(c.dataset.v) : c.textContent.trim(); };
for (const head of all("table.sort thead th")) {
  const name = head.firstChild ? head.firstChild.textContent : "";
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const table = head.closest("table"), at = head.cellIndex, body = table.tBodies[0];
    const up = head.ariaSort !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.ariaSort = up ? "ascending" : "descending";
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, at), y = value(b, at);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    });
    body.append(...rows);
  });
}

// Copying a command
if (navigator.clipboard) for (const box of all(".command")) {
  const button = make("button", "copy", box);
  button.type = "button";
  button.addEventListener("click", () => navigator.clipboard.writeText(box.querySelector("code").textContent).then(() => {
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }, () => { button.textContent = "select it by hand"; }));
}

// How strongly the maps lie over the rows
for (const set of all(".sets:has(.over)")) {
  const slider = document.createElement("input");
  Object.assign(slider, {type: "range", min: 0, max: 100, value: 100, ariaLabel: "strength of the maps"});
  slider.addEventListener("input", () => set.style.setProperty("--mix", slider.value / 100));
  set.querySelector("label").after(" ", slider);
}

// Filtering the findings; the filter is in the address, so that a view is a link
const form = document.getElementById("filter"), found = all("article.finding");
if (form && found.length > 1) {
  form.hidden = false;
  const fields = ["q", "verdict", "step"].map(name => form.elements[name]), none = document.getElementById("none");
  const sift = () => {
    const [q, verdict, step] = fields.map(field => field.value.toLowerCase());
    for (const one of found) {
      one.hidden = !(one.textContent.toLowerCase().includes(q) && (!verdict || one.dataset.verdict === verdict)
        && (!step || one.dataset.steps.toLowerCase().split(" ").includes(step)));
    }
    none.hidden = found.some(one => !one.hidden);
    const query = new URLSearchParams(fields.filter(field => field.value).map(field => [field.name, field.value])).toString();
    try { history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash); } catch { /* a sandbox */ }
  };
  const given = new URLSearchParams(location.search);
  for (const field of fields) field.value = given.get(field.name) || "";
  if (given.size) sift();
  form.addEventListener("input", sift);
  form.addEventListener("submit", event => event.preventDefault());
}

// Keys
const near = (items, step) => {
  const tops = items.filter(item => !item.hidden).map(item => [item, item.getBoundingClientRect().top - 60]);
  const next = step > 0 ? tops.find(([, top]) => top > 4) : tops.reverse().find(([, top]) => top < -4);
  if (!next) return;
  next[0].scrollIntoView();
  for (const item of items) item.classList.toggle("here", item === next[0]);
};
const help = document.getElementById("help");
const keys = {
  j: () => near(found, 1), k: () => near(found, -1), "]": () => near(all("h2"), 1), "[": () => near(all("h2"), -1),
  t: turn, "?": () => help.open ? help.close() : help.showModal(), "/": () => { if (form) { form.scrollIntoView(); form.elements.q.focus(); } },
};
document.addEventListener("keydown", event => {
  if (event.key === "Escape") document.activeElement.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
const tools = document.getElementById("tools");
tools.hidden = false;
for (const [name, act] of [["dark or light", turn], ["keys", keys["?"]], ["open all", () => all("details").forEach(d => { d.open = true; })]]) {
  const button = make("button", name, tools);
  button.type = "button";
  button.addEventListener("click", act);
}

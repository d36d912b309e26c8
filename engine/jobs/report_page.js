// The page: which groups are shown, in what order; one group and one photo of it are where the keys work.
const PAGE = 50, FIRST_PHOTOS = 24, MORE_PHOTOS = 240;
const shownPhotos = new Map(); // how many photos of a large group are drawn
let chosen = [], page = 0, here = { group: -1, i: 0 };

const lowest = (group) => Number(data.p[starts[group]]);
const orders = {
  size: (a, b) => a - b,
  small: (a, b) => data.n[a] - data.n[b] || a - b,
  close: (a, b) => data.m[b] - data.m[a] || a - b,
  far: (a, b) => data.m[a] - data.m[b] || a - b,
  id: (a, b) => lowest(a) - lowest(b) || a - b,
};

function roleOf(group, i) {
  const { kept } = verdictOf(group), stays = keptOf(group);
  if (isOut(group, i)) return "not a duplicate";
  if (i === stays) return kept >= 0 ? "kept" : "representative";
  return kept >= 0 ? "to be removed" : told(data.s[starts[group] + i]);
}

function verdictText(group) {
  const { kept, out } = verdictOf(group);
  if (!verdicts.has(group)) return "";
  if (remaining(group).length < 2) return "All different";
  const said = [];
  if (kept >= 0) said.push("Kept " + data.p[starts[group] + kept]);
  if (out.size) said.push(counted(out.size, "photo") + " not a duplicate");
  return said.join(" · ");
}

function photo(group, i, pictured) {
  const place = starts[group] + i, id = String(data.p[place]), role = roleOf(group, i);
  const { kept } = verdictOf(group), at = here.group === group && here.i === i;
  const item = make("li", [isOut(group, i) ? "out" : i === keptOf(group) ? "kept" : "", at ? "here" : ""].join(" ").trim());
  item.dataset.i = i;
  item.tabIndex = at ? 0 : -1;
  item.setAttribute("aria-label", "Photo " + id + ", " + role);
  if (at) item.setAttribute("aria-current", "true");
  if (pictured) item.append(frame(place, "Photo " + id + ", " + role));
  item.append(make("b", "", id), make("small", "role", role));
  if (role === "to be removed") item.lastChild.append(" · " + told(data.s[place]));
  const credit = creditLine(place);
  if (credit) item.append(credit);
  const acts = make("div", "acts");
  const keeps = button("yes", "Keep", kept === i), no = button("no", "Not a duplicate", isOut(group, i));
  keeps.dataset.do = "keep";
  no.dataset.do = "no";
  [keeps, no].forEach((one) => { one.tabIndex = at ? 0 : -1; });
  acts.append(keeps, no);
  item.append(acts);
  return item;
}

function card(group) {
  const pictured = data.images, listed = data.l[group], size = data.n[group];
  const shown = Math.min(listed, shownPhotos.get(group) ?? FIRST_PHOTOS);
  const classes = ["group", pictured ? "" : "plain", listed > 4 ? "wide" : "", verdicts.has(group) ? "told" : ""];
  const box = make("article", classes.concat(here.group === group ? "here" : "").filter(Boolean).join(" "));
  box.dataset.group = group;
  box.setAttribute("aria-label", "Group " + count.format(group + 1));
  const title = make("h3", "", counted(size, "photo"));
  title.append(make("span", "", KIND_NAMES[data.k[group]]), make("span", "score", "least score " + told(data.m[group])));
  const list = make("ul", "photos"), ends = make("div", "ends");
  for (let i = 0; i < shown; i++) list.append(photo(group, i, pictured));
  box.append(title, make("p", "verdict", verdictText(group)), list, ends);
  const all = button("all", listed === 2 ? "Different photos" : "All different");
  all.dataset.do = "all";
  ends.append(all);
  if (shown < listed) {
    const more = button("more", "Show " + count.format(Math.min(MORE_PHOTOS, listed - shown)) + " more");
    more.dataset.do = "more";
    ends.append(more);
  }
  if (size > listed) ends.append(make("span", "note", count.format(size - listed) + " more are in groups.jsonl."));
  return box;
}

const cardOf = (group) => document.querySelector('[data-group="' + group + '"]');

/** Draw a group again after a change, and everything that counts. */
function redraw(group) {
  cardOf(group)?.replaceWith(card(group));
  tally();
}

function tally() {
  byId("count").textContent = count.format(verdicts.size) + " of " + count.format(groupCount);
  byId("progress").max = Math.max(groupCount, 1);
  byId("progress").value = verdicts.size;
  byId("undo").disabled = !undone.length;
}

function draw() {
  const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const start = page * PAGE, shown = Array.from(chosen.slice(start, start + PAGE));
  if (!shown.includes(here.group)) here = { group: shown.length ? shown[0] : -1, i: 0 };
  byId("groups").replaceChildren(...shown.map(card));
  byId("where").textContent = shown.length
    ? count.format(start + 1) + "–" + count.format(start + shown.length) + " of " + count.format(chosen.length)
    : "0 groups";
  document.querySelectorAll("[data-turn]").forEach((one) => {
    const to = page + Number(one.dataset.turn);
    one.disabled = to < 0 || to >= pages;
  });
  document.querySelector(".foot").hidden = pages === 1;
  const empty = byId("empty"), none = groupCount === 0;
  empty.hidden = shown.length > 0;
  empty.firstChild.textContent = none ? "No duplicates" : "No such group";
  empty.lastChild.textContent = none
    ? "No two photos of this store are as alike as the threshold asks. A lower threshold finds more."
    : "Ask for other sizes, scores or kinds, or another photo id.";
  tally();
}

function number(id, otherwise) {
  const value = byId(id).value.trim();
  return value === "" ? otherwise : Number(value);
}

function groupWith(id) {
  const at = data.p.findIndex((one) => String(one) === id);
  if (at < 0) return -1;
  let low = 0, high = groupCount - 1; // the last group that starts at or before the place
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= at) low = middle; else high = middle - 1;
  }
  return low;
}

function choose() {
  const least = number("size", 0), most = number("most", Infinity), state = byId("state").value;
  const from = Math.round(number("score", -1) * 1e6), upto = Math.round(number("upto", 2) * 1e6);
  const kind = byId("kind").value, owners = byId("owners").value, id = byId("photo").value.trim();
  const only = id === "" ? null : groupWith(id), found = [];
  for (let group = 0; group < groupCount; group++) {
    if (data.n[group] >= least && data.n[group] <= most && data.m[group] >= from && data.m[group] <= upto
      && (kind === "" || data.k[group] === kind) && (only === null || group === only)
      && (state === "" || verdicts.has(group) === (state === "done"))
      && (owners === "" || ownersOf(group) === owners)) found.push(group);
  }
  const order = byId("order").value;
  chosen = order === "size" ? found : found.sort(orders[order]);
  page = 0;
  here = { group: -1, i: 0 };
  draw();
}

function turn(by) {
  const before = page;
  page += by;
  draw();
  if (page !== before) byId("groups").scrollIntoView();
  return page !== before;
}

/** Make a photo the one where the keys work, and bring it into view. */
function goTo(group, i, focus = true) {
  const before = here;
  here = { group, i: Math.max(0, Math.min(i, data.l[group] - 1)) };
  const shown = shownPhotos.get(group) ?? FIRST_PHOTOS;
  if (here.i >= shown) shownPhotos.set(group, here.i + MORE_PHOTOS);
  if (before.group !== group && before.group >= 0) redraw(before.group);
  redraw(group);
  if (byId("look").open) return lookCloser();
  const item = cardOf(group)?.querySelector('[data-i="' + here.i + '"]');
  if (!item || !focus) return;
  item.focus({ preventScroll: true });
  (data.l[group] > 12 ? item : cardOf(group)).scrollIntoView({ block: "nearest" });
}

function step(by) {
  if (!chosen.length) return;
  const at = chosen.indexOf(here.group) + by;
  if (at < 0 || at >= chosen.length) return;
  if (Math.floor(at / PAGE) !== page) { page = Math.floor(at / PAGE); draw(); }
  goTo(chosen[at], 0);
}

function onGroup(act, goOn) {
  const { group, i } = here;
  if (group < 0) return;
  act(group, i);
  byId("said").textContent = "Group " + count.format(group + 1) + ": " + (verdictText(group) || "undecided");
  say(changedSince ? "Remembered here, not saved to a file yet." : "");
  redraw(group);
  if (goOn) step(1);
  if (here.group === group) goTo(group, here.i);
}

function back() {
  const group = undo();
  if (group < 0) return tally();
  say("Undone.");
  const at = chosen.indexOf(group);
  if (at >= 0 && Math.floor(at / PAGE) !== page) page = Math.floor(at / PAGE);
  draw();
  if (at >= 0) goTo(group, group === here.group ? here.i : 0);
}

function lookCloser() {
  const { group, i } = here;
  if (group < 0) return;
  const stays = Math.max(keptOf(group), 0), other = stays === i ? (i === 0 ? 1 : 0) : stays;
  byId("sides").replaceChildren(...[other, i].map((which) => {
    const place = starts[group] + which, figure = make("figure"), text = make("figcaption");
    const label = "Photo " + data.p[place] + ", " + roleOf(group, which);
    text.append(make("b", "", data.p[place]), " · " + roleOf(group, which));
    const credit = creditLine(place);
    if (credit) text.append(make("br"), credit);
    figure.append(frame(place, label, true), text);
    return figure;
  }));
  if (!byId("look").open) byId("look").showModal();
}

const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  l: () => goTo(here.group, here.i + 1), ArrowRight: () => goTo(here.group, here.i + 1),
  h: () => goTo(here.group, here.i - 1), ArrowLeft: () => goTo(here.group, here.i - 1),
  Enter: () => onGroup(keep, true), n: () => onGroup(notDuplicate, false), a: () => onGroup(allDifferent, true),
  u: back, s: save, z: lookCloser, "[": () => turn(-1), "]": () => turn(1), "?": () => byId("help").showModal(),
};

function pressed(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
  if (event.target.closest?.("input, select, textarea")) return;
  // A button or a link that has the focus is pressed by Enter itself.
  if (event.key === "Enter" && event.target.closest?.("button, a, label")) return;
  if (!Object.hasOwn(KEYS, event.key) || (!chosen.length && !"us?".includes(event.key))) return;
  event.preventDefault();
  KEYS[event.key]();
}

const ACTS = {
  keep: () => onGroup(keep, false), no: () => onGroup(notDuplicate, false), all: () => onGroup(allDifferent, false),
  look: lookCloser,
  more: () => {
    const { group } = here;
    shownPhotos.set(group, (shownPhotos.get(group) ?? FIRST_PHOTOS) + MORE_PHOTOS);
    redraw(group);
  },
};

function clicked(event) {
  const box = event.target.closest("[data-group]"), item = event.target.closest("[data-i]");
  if (!box || event.target.closest("a")) return;
  const act = event.target.closest("[data-do]")?.dataset.do, group = Number(box.dataset.group);
  goTo(group, item ? Number(item.dataset.i) : here.group === group ? here.i : 0, item !== null);
  if (act) ACTS[act]();
}

async function load(event) {
  const file = event.target.files[0];
  event.target.value = "";
  if (!file) return;
  try {
    const entries = parseDecisions(await file.text());
    const groups = takeIn(entries);
    say(counted(entries.length, "decision") + " taken in, about " + counted(groups, "group") + " of this page.");
    draw();
  } catch (error) {
    say(file.name + " " + error.message + ". Nothing was changed.", true);
  }
}

byId("bar").hidden = byId("about").hidden = groupCount === 0;
byId("owners-choice").hidden = data.credits.length === 0;
byId("tools").addEventListener("input", choose);
byId("tools").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("[data-turn]").forEach((one) =>
  one.addEventListener("click", () => turn(Number(one.dataset.turn))));
document.querySelectorAll("[data-close]").forEach((one) =>
  one.addEventListener("click", () => one.closest("dialog").close()));
byId("look").addEventListener("close", () => { if (here.group >= 0) goTo(here.group, here.i); });
byId("groups").addEventListener("click", clicked);
byId("undo").addEventListener("click", back);
byId("save").addEventListener("click", save);
byId("load").addEventListener("change", load);
document.addEventListener("keydown", pressed);
addEventListener("pagehide", remember);
recall();
if (verdicts.size && changedSince) say("As it was left, not saved to a file yet.");
choose();

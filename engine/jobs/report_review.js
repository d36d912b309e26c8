// What was decided: for each group the photo to keep and those that are not duplicates, as places in it; and undo.
const verdicts = new Map();
const undone = [];
let carried = data.earlier; // decisions about photos that are in no group here: they are saved again
let changedSince = false; // the last save to a file

const NOTHING = Object.freeze({ kept: -1, out: new Set(), at: "" });
const verdictOf = (group) => verdicts.get(group) ?? NOTHING;

function remaining(group) {
  const { out } = verdictOf(group);
  return Array.from({ length: data.l[group] }, (_, i) => i).filter((i) => !out.has(i));
}

/** Whether a photo was judged to be no duplicate; where all others were, so is the last one. */
function isOut(group, i) {
  const { out } = verdictOf(group);
  return out.has(i) || data.l[group] - out.size < 2;
}

/** The photo that stays: the one that was chosen, else the representative; −1 where that is different from the others. */
function keptOf(group) {
  const { kept, out } = verdictOf(group);
  if (kept >= 0) return kept;
  return out.has(0) || data.l[group] - out.size < 2 ? -1 : 0;
}

function put(group, verdict) {
  if (verdict.kept < 0 && !verdict.out.size) verdicts.delete(group);
  else verdicts.set(group, verdict);
}

function decide(group, kept, out) {
  undone.push({ groups: [[group, verdictOf(group)]], carried });
  put(group, { kept, out, at: new Date().toISOString().slice(0, 19) + "Z" });
  changed();
}

function keep(group, i) {
  const out = new Set(verdictOf(group).out);
  out.delete(i);
  decide(group, i, out);
}

function notDuplicate(group, i) {
  const { kept, out } = verdictOf(group), then = new Set(out);
  if (!then.delete(i)) then.add(i);
  decide(group, kept === i || data.l[group] - then.size < 2 ? -1 : kept, then);
}

function allDifferent(group) {
  decide(group, -1, new Set(Array.from({ length: data.l[group] }, (_, i) => i)));
}

/** Take the last decision back; the group that it was about, or −1. */
function undo() {
  const last = undone.pop();
  if (!last) return -1;
  last.groups.forEach(([group, verdict]) => put(group, verdict));
  carried = last.carried;
  changed();
  return last.groups.length ? last.groups[0][0] : -1;
}

/** The decisions about a group as entries of the file. */
function entriesOf(group) {
  const { kept, out, at } = verdictOf(group), start = starts[group];
  const id = (i) => String(data.p[start + i]), left = remaining(group);
  const entry = (places, verdict) => ({ photo_ids: places.map(id), verdict, at });
  if (left.length < 2) return [entry(Array.from({ length: data.l[group] }, (_, i) => i), "all-different")];
  const entries = [...out].sort((a, b) => a - b).map((i) => entry([i, ...left], "different"));
  if (kept >= 0) entries.push(entry([kept, ...left.filter((i) => i !== kept)], "same"));
  return entries;
}

/** The file's text. Photo ids are written as numbers whatever their size, which JSON.stringify could not. */
function decisionsText() {
  const groups = [...verdicts.keys()].sort((a, b) => a - b);
  const lines = [...carried, ...groups.flatMap(entriesOf)].map((entry) =>
    '  {"photo_ids": [' + entry.photo_ids.join(", ") + '], "verdict": ' + JSON.stringify(entry.verdict)
    + (entry.at ? ', "at": ' + JSON.stringify(entry.at) : "") + "}");
  return '{\n "version": 1,\n "store": ' + JSON.stringify(data.store) + ',\n "report": ' + JSON.stringify(data.report)
    + ',\n "decisions": [' + (lines.length ? "\n" + lines.join(",\n") + "\n " : "") + "]\n}\n";
}

const VERDICTS = ["different", "all-different", "same"];

/** The entries of a file that was saved earlier, photo ids as texts; Error says what is wrong. */
function parseDecisions(text) {
  const quoted = text.replace(/"photo_ids"\s*:\s*\[[\d\s,]*\]/g, (list) => list.replace(/\d+/g, '"$&"'));
  let document;
  try { document = JSON.parse(quoted); } catch { throw new Error("is no JSON text"); }
  if (document?.version !== 1 || !Array.isArray(document.decisions)) throw new Error("holds no decisions of this version");
  document.decisions.forEach((entry, number) => {
    const ids = entry?.photo_ids;
    const whole = Array.isArray(ids) && ids.length > 1 && ids.every((id) => /^\d{1,19}$/.test(id));
    if (!whole || !VERDICTS.includes(entry.verdict)) throw new Error("decision " + (number + 1) + " is not as it must be");
  });
  return document.decisions.map(({ photo_ids, verdict, at }) => ({ photo_ids, verdict, at: String(at ?? "") }));
}

let places = null;

/** The group of a photo and its place in it. */
function find(id) {
  if (!places) {
    places = new Map();
    for (let group = 0; group < groupCount; group++) {
      for (let place = starts[group]; place < starts[group + 1]; place++) {
        places.set(String(data.p[place]), [group, place - starts[group]]);
      }
    }
  }
  return places.get(id);
}

/** Take the entries of a file in: into the groups here, and what is about other photos is carried along. */
function takeIn(entries) {
  const touched = new Map(), aside = [];
  for (const entry of entries) {
    const [head, ...others] = entry.photo_ids.map(find);
    const group = head?.[0], inside = head ? others.filter((other) => other?.[0] === group) : [];
    if (inside.length < others.length) aside.push(entry);
    if (!inside.length) continue;
    if (!touched.has(group)) touched.set(group, verdictOf(group));
    const before = verdictOf(group), out = new Set(before.out);
    let kept = before.kept;
    if (entry.verdict === "same") { kept = head[1]; out.delete(head[1]); inside.forEach(([, i]) => out.delete(i)); }
    if (entry.verdict === "different") out.add(head[1]);
    if (entry.verdict === "all-different") {
      const all = inside.length + 1 === data.l[group];
      (all ? [head, ...inside] : inside).forEach(([, i]) => out.add(i));
    }
    put(group, { kept: out.has(kept) ? -1 : kept, out, at: entry.at });
  }
  const known = new Set(carried.map((entry) => JSON.stringify(entry)));
  const before = carried;
  carried = [...carried, ...aside.filter((entry) => !known.has(JSON.stringify(entry)))];
  undone.push({ groups: [...touched], carried: before });
  changed();
  return touched.size;
}

// What was decided is kept in the browser under the report's own id, whatever becomes of the page.
const MEMORY = "mirsearch decisions " + data.report;
let waiting = 0;

function remember() {
  waiting = 0;
  const told = [...verdicts].map(([group, { kept, out, at }]) => [group, kept, [...out], at]);
  try {
    if (told.length || carried.length > data.earlier.length) {
      localStorage.setItem(MEMORY, JSON.stringify({ told, carried, changedSince }));
    } else localStorage.removeItem(MEMORY);
  } catch {
    say("This browser cannot remember more. Save decisions to a file now and then.", true);
  }
}

function changed() {
  changedSince = true;
  if (!waiting) waiting = setTimeout(remember, 200);
}

function recall() {
  try {
    const memory = JSON.parse(localStorage.getItem(MEMORY));
    if (!memory) return;
    memory.told.forEach(([group, kept, out, at]) => {
      if (group < groupCount) put(group, { kept, out: new Set(out), at });
    });
    carried = memory.carried;
    changedSince = memory.changedSince;
  } catch {
    verdicts.clear();
    carried = data.earlier;
  }
}

let handle = null; // of the file that was chosen, where the browser can write to it again

/** Save the file: to the one that was chosen, or as a download. */
async function save() {
  const text = decisionsText();
  if (window.showSaveFilePicker) {
    try {
      handle ??= await window.showSaveFilePicker({
        suggestedName: "decisions.json",
        types: [{ description: "Decisions about duplicates", accept: { "application/json": [".json"] } }],
      });
      const file = await handle.createWritable();
      await file.write(text);
      await file.close();
      return saved(handle.name);
    } catch (error) {
      if (error.name === "AbortError") return say("Not saved.");
      handle = null; // it may not be written to: as a download, then
    }
  }
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return saved("decisions.json, among the downloads");
}

function saved(where) {
  changedSince = false;
  remember();
  say("Saved to " + where + " at " + new Date().toLocaleTimeString() + ".");
}

function say(text, wrong = false) {
  byId("saved").textContent = text;
  byId("saved").classList.toggle("wrong", wrong);
}

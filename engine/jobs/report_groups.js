// The groups as the data of the page give them; a photo is known by its place among all, a group by its number.
const data = JSON.parse(document.getElementById("data").textContent);
const groupCount = data.n.length;
const starts = new Int32Array(groupCount + 1);
data.l.forEach((listed, number) => { starts[number + 1] = starts[number] + listed; });
const KIND_NAMES = ["exact copies", "copies", "burst"];
const count = new Intl.NumberFormat("en-US");
const byId = (id) => document.getElementById(id);

/** A score for people: 1.0000 is for a score of 1 alone. */
function told(millionths) {
  if (millionths < 0) return "through others";
  return (millionths < 1000000 ? Math.min(millionths / 1e6, 0.9999) : 1).toFixed(4);
}

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(className, text, pressed) {
  const element = make("button", className, text);
  element.type = "button";
  if (pressed !== undefined) element.setAttribute("aria-pressed", String(pressed));
  return element;
}

function counted(number, noun) {
  return count.format(number) + " " + noun + (number === 1 ? "" : "s");
}

/** Owner, licence and links of a photo, as far as they are known. */
function creditOf(place) {
  const credit = data.credits[data.c[place]];
  if (!credit) return null;
  const [owner, licence, licenceUrl, url] = credit;
  return { owner, licence, licenceUrl, url: url.replaceAll("{id}", data.p[place]) };
}

/** Text that leads to an address, if that is one of the web; the text of others keeps its direction to itself. */
function link(before, text, url) {
  const inner = make("bdi", "", text);
  if (!/^https?:\/\//i.test(url)) {
    const plain = make("span", "", before);
    plain.append(inner);
    return plain;
  }
  const element = make("a", "", before);
  element.append(inner);
  element.href = url;
  element.target = "_blank";
  element.rel = "noopener noreferrer";
  return element;
}

/** The line that stands beside a photo; null when nothing is known of it. */
function creditLine(place) {
  const credit = creditOf(place);
  if (!credit) return null;
  const line = make("small", "by");
  const owner = credit.owner || (credit.url ? "photo page" : "");
  if (owner) line.append(link(credit.owner ? "© " : "", owner, credit.url));
  if (owner && credit.licence) line.append(" · ");
  if (credit.licence) line.append(link("", credit.licence, credit.licenceUrl));
  return line;
}

/** "one" or "several" owners; "" where one of the photos has none that is known. */
function ownersOf(group) {
  const owners = new Set();
  for (let place = starts[group]; place < starts[group + 1]; place++) {
    const owner = data.credits[data.c[place]]?.[0];
    if (!owner) return "";
    owners.add(owner);
  }
  return owners.size === 1 ? "one" : "several";
}

const SUFFIXES = [".jpg", ".jpeg", ".png"];

function pictureFile(id, suffix) {
  return data.folder + (BigInt(id) / 10000n) + "/" + id + suffix;
}

/** The picture of a photo: a thumbnail in the page, else the file in the folder of pictures, else its id in words. */
function picture(place, label, large) {
  const id = String(data.p[place]);
  const small = Object.hasOwn(data.pictures, id) ? "data:image/jpeg;base64," + data.pictures[id] : null;
  const files = data.folder === null ? [] : SUFFIXES.map((suffix) => pictureFile(id, suffix));
  const sources = large ? [...files, small] : [small, ...files];
  const left = sources.filter((source) => source !== null);
  const image = make("img");
  image.alt = label;
  image.decoding = "async";
  image.loading = "lazy";
  const next = () => {
    if (left.length) image.src = left.shift();
    else image.replaceWith(make("span", "", "photo " + id), make("span", "", "no picture"));
  };
  image.addEventListener("error", () => { image.closest(".frame")?.classList.toggle("none", !left.length); next(); });
  return { image, next };
}

function frame(place, label, large) {
  const box = large ? make("div", "frame") : button("frame");
  if (!large) { box.tabIndex = -1; box.title = "Look closer (key z)"; box.dataset.do = "look"; }
  const { image, next } = picture(place, label, large);
  box.append(image);
  next();
  if (!image.parentNode) box.classList.add("none");
  return box;
}

"use strict";
// Data from the dataset enters the page as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const NOTES = {
  "missed object": "An annotated object that all RoIs take for background. Hard to see, or not an object.",
  "wrong class": "An annotated object predicted as another class. Look-alikes, or a wrong label.",
  "poor localization": "An annotated object whose predicted box does not fit. Unclear borders, or a badly drawn box.",
  "nothing annotated": "A predicted object where none is annotated. A look-alike, or a missing box.",
};
// What a person can say of an example: the mark, its key, and its title.
const MARKS = [
  ["mistake", "m", "The annotation is wrong or missing (m)"],
  ["right", "r", "The annotation is right, and the model is not (r)"],
  ["unsure", "u", "Cannot be decided (u)"],
];
const STEP = 60; // tiles per kind at first, and with each click on "more"
const element = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const className = (i) => data.classes[i];
const percent = (x) => `${(100 * x).toFixed(0)}\u00a0%`;
const fileName = (example) => data.images[example.image].name;
const shortName = (example) => fileName(example).split("/").pop();

function describe(example) {
  const predicted = `${className(example.predClass)} ${percent(example.score)}`;
  switch (data.kinds[example.kind]) {
    case "missed object": return `${className(example.gtClass)}: not found`;
    case "wrong class": return `${className(example.gtClass)} → ${predicted}`;
    case "poor localization": return `${className(example.gtClass)}, IoU ${example.iou.toFixed(2)}`;
    default: return `nothing → ${predicted}`;
  }
}

// An image with boxes. view: the part of the image that the picture shows, XYXY.
function makePicture(source, view, boxes, lazy) {
  const [x0, y0, x1, y1] = view;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `${x0} ${y0} ${x1 - x0} ${y1 - y0}`);
  for (const [name, box, title] of boxes) {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("class", name);
    rect.setAttribute("x", box[0]);
    rect.setAttribute("y", box[1]);
    rect.setAttribute("width", Math.max(box[2] - box[0], 0));
    rect.setAttribute("height", Math.max(box[3] - box[1], 0));
    if (title) {
      const text = document.createElementNS("http://www.w3.org/2000/svg", "title");
      text.textContent = title;
      rect.append(text);
    }
    svg.append(rect);
  }
  const image = make("img", { alt: "", loading: lazy ? "lazy" : "eager" });
  image.src = source;
  return make("div", { className: "picture" }, image, svg);
}

// ---- Marks, which the browser keeps for this page

const STORE = `ohem_d2 ${location.pathname}`;
const idOf = (example) => JSON.stringify([data.kinds[example.kind], fileName(example), example.roi]);
const marks = new Map(readMarks());
const markOf = (example) => marks.get(idOf(example)) ?? "";

function readMarks() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? [];
  } catch {
    return []; // the browser keeps nothing: marks last until the page is closed
  }
}

function mark(example, name) {
  if (markOf(example) === name) marks.delete(idOf(example));
  else marks.set(idOf(example), name);
  try {
    localStorage.setItem(STORE, JSON.stringify([...marks]));
  } catch {} // as above
}

function save(name, type, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

const isMarked = (example) => markOf(example) !== "";
// Of a missed object, the object; otherwise what the model predicts.
const shownBox = (x) => (data.kinds[x.kind] === "missed object" ? [x.gtBox, x.gtClass] : [x.predBox, x.predClass]);

function exportCsv() {
  const quote = (x) => `"${String(x).replaceAll('"', '""')}"`;
  const columns = ["mark", "file_name", "kind", "gt_class", "pred_class", "score", "loss", "x0", "y0", "x1", "y1"];
  const rows = data.examples.filter(isMarked).map((x) => [
    markOf(x),
    fileName(x),
    data.kinds[x.kind],
    x.gtBox ? className(x.gtClass) : "",
    className(x.predClass),
    x.score,
    x.loss,
    ...shownBox(x)[0],
  ]);
  save("marked.csv", "text/csv", [columns, ...rows].map((row) => row.map(quote).join(",") + "\r\n").join(""));
}

function exportCoco() {
  const marked = data.examples.filter(isMarked);
  const images = [...new Set(marked.map((x) => x.image))];
  save(
    "marked_coco.json",
    "application/json",
    JSON.stringify({
      images: images.map((i) => ({
        id: i + 1,
        file_name: data.images[i].name,
        width: data.images[i].size[0],
        height: data.images[i].size[1],
      })),
      annotations: marked.map((x, i) => {
        const [[x0, y0, x1, y1], category] = shownBox(x);
        return {
          id: i + 1,
          image_id: x.image + 1,
          category_id: category + 1,
          bbox: [x0, y0, x1 - x0, y1 - y0],
          area: (x1 - x0) * (y1 - y0),
          iscrowd: 0,
          score: x.score,
          attributes: {
            mark: markOf(x),
            kind: data.kinds[x.kind],
            annotated_class: x.gtBox ? className(x.gtClass) : "",
            loss: x.loss,
          },
        };
      }),
      categories: data.classes.map((name, i) => ({ id: i + 1, name })),
    }),
  );
}

function makeTile(example, index, list) {
  const boxes = [["predicted", example.predBox]];
  if (example.gtBox) boxes.unshift(["annotated", example.gtBox]);
  const tile = make(
    "button",
    { className: "tile", type: "button", title: fileName(example) },
    makePicture(example.picture, example.crop, boxes, true),
    make(
      "div",
      { className: "text" },
      describe(example),
      make("div", { className: "loss", textContent: `loss ${example.loss.toFixed(2)}` }),
      make("div", { className: "score", textContent: `score ${percent(example.score)}` }),
      make("div", { className: "file", textContent: shortName(example) }),
      make("div", { className: "mark" }),
    ),
  );
  tile.addEventListener("click", () => view(list, index));
  tiles.set(example, tile);
  showMark(example);
  return tile;
}

const tiles = new Map(); // of the examples that are in the grid

function showMark(example) {
  const tile = tiles.get(example);
  if (!tile) return; // further down than what is shown
  tile.className = `tile ${markOf(example)}`;
  tile.querySelector(".mark").textContent = markOf(example);
}

// ---- The grid

function chosen() {
  const kinds = new Set([...document.querySelectorAll("#kinds input:checked")].map((x) => +x.value));
  const wanted = element("class").value;
  const text = element("search").value.toLowerCase();
  const marked = element("marked").value;
  return data.examples.filter(
    (x) =>
      kinds.has(x.kind) &&
      (marked === "" || (markOf(x) || "none") === marked) &&
      (wanted === "" || x.gtClass === +wanted || x.predClass === +wanted) &&
      fileName(x).toLowerCase().includes(text),
  );
}

const ORDERS = {
  loss: (a, b) => b.loss - a.loss,
  "-loss": (a, b) => a.loss - b.loss,
  score: (a, b) => b.score - a.score,
  image: (a, b) => fileName(a).localeCompare(fileName(b)) || b.loss - a.loss,
};

// all: the examples of all groups in the order of the page.
function showGroup(kind, examples, all) {
  const name = data.kinds[kind];
  const offset = all.indexOf(examples[0]);
  const grid = make("div", { className: "grid" });
  const more = make("button", { className: "more", type: "button" });
  function showMore() {
    const first = grid.childElementCount;
    examples.slice(first, first + STEP).forEach((x, i) => grid.append(makeTile(x, offset + first + i, all)));
    const left = examples.length - grid.childElementCount;
    more.textContent = `Show ${Math.min(left, STEP)} of ${left} more`;
    more.hidden = left === 0;
  }
  more.addEventListener("click", showMore);
  showMore();
  const title = name[0].toUpperCase() + name.slice(1);
  const listed = data.examples.filter((x) => x.kind === kind).length;
  const found = data.found[kind];
  const part = found > listed ? ` The hardest ${listed.toLocaleString("en")} of ${found.toLocaleString("en")}.` : "";
  return make(
    "section",
    {},
    make("h2", { textContent: `${title} (${examples.length})` }),
    make("p", { className: "note", textContent: NOTES[name] + part }),
    grid,
    more,
  );
}

function showGroups() {
  tiles.clear();
  const byKind = data.kinds.map(() => []);
  const examples = chosen().sort(ORDERS[element("sort").value]);
  for (const x of examples) byKind[x.kind].push(x);
  const all = byKind.flat();
  const groups = byKind.flatMap((x, kind) => (x.length ? [showGroup(kind, x, all)] : []));
  element("groups").replaceChildren(...groups);
  element("count").textContent = `${all.length} of ${data.examples.length}`;
  countMarks();
}

function countMarks() {
  const count = data.examples.filter(isMarked).length;
  element("marked-count").textContent = `${count} marked`;
  for (const id of ["csv", "coco"]) element(id).disabled = count === 0;
}

// ---- The viewer of one example

let viewed = { list: [], index: 0 };

function view(list, index) {
  if (index < 0 || index >= list.length) return;
  viewed = { list, index };
  const example = list[index];
  const image = data.images[example.image];
  const isShown = (x) => example.gtBox && x.box.every((v, i) => v === example.gtBox[i]);
  const boxes = image.objects
    .filter((x) => !isShown(x))
    .map((x) => [x.ignored ? "ignored" : "other", x.box, className(x.class)]);
  if (example.gtBox) boxes.push(["annotated", example.gtBox, className(example.gtClass)]);
  boxes.push(["roi", example.roi, "RoI"]);
  boxes.push(["predicted", example.predBox, className(example.predClass)]);
  const picture = makePicture(image.picture, [0, 0, ...image.size], boxes, false);
  picture.id = "whole";
  const ratio = image.size[0] / image.size[1];
  picture.style.aspectRatio = ratio;
  picture.style.maxWidth = `calc(78vh * ${ratio})`; // fits the window
  element("whole").replaceWith(picture);

  element("caption").textContent = `${data.kinds[example.kind]}: ${describe(example)}`;
  const annotated = example.gtBox ? className(example.gtClass) : "nothing";
  const rows = [
    ["Annotated", annotated],
    ["Predicted", `${className(example.predClass)}, ${percent(example.score)}`],
    ...(example.gtBox ? [["IoU of the two boxes", example.iou.toFixed(2)]] : []),
  ];
  const losses = [
    ["Object or background", example.parts[0]],
    ["Which class", example.parts[1]],
    ["Box", example.parts[2]],
    ["Loss", example.loss],
  ].map(([name, x]) => [name, x.toFixed(3)]);
  const table = (rows) =>
    make("table", {}, ...rows.map((row) => make("tr", {}, ...row.map((x) => make("td", { textContent: x })))));
  const others = data.examples.filter((x) => x.image === example.image).length - 1;
  element("facts").replaceChildren(
    table(rows),
    table(losses),
    make("p", { textContent: image.name }),
    make("p", { className: "note", textContent: `${index + 1} of ${list.length}; ${others} more on this image` }),
  );
  for (const x of element("marks").children) x.setAttribute("aria-pressed", markOf(example) === x.textContent);
  element("previous").disabled = index === 0;
  element("next").disabled = index === list.length - 1;
  if (!element("viewer").open) element("viewer").showModal();
}

function markViewed(name) {
  const example = viewed.list[viewed.index];
  mark(example, name);
  view(viewed.list, viewed.index);
  showMark(example);
  countMarks();
}

// ---- Set-up

data.kinds.forEach((name, kind) => {
  const count = data.examples.filter((x) => x.kind === kind).length;
  const box = make("input", { type: "checkbox", value: kind, checked: true });
  element("kinds").append(make("label", {}, box, ` ${name} (${count})`));
});
for (const [name, , title] of MARKS) {
  element("marked").append(make("option", { value: name, textContent: name }));
  const button = make("button", { type: "button", className: name, title, textContent: name });
  button.addEventListener("click", () => markViewed(name));
  element("marks").append(button);
}
element("csv").addEventListener("click", exportCsv);
element("coco").addEventListener("click", exportCoco);
data.classes.forEach((name, i) => element("class").append(make("option", { value: i, textContent: name })));
element("filters").addEventListener("input", showGroups);
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("previous").addEventListener("click", () => view(viewed.list, viewed.index - 1));
element("next").addEventListener("click", () => view(viewed.list, viewed.index + 1));
element("close").addEventListener("click", () => element("viewer").close());
element("viewer").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) view(viewed.list, viewed.index + step);
  const [name] = MARKS.find(([, key]) => key === event.key) ?? [];
  if (name && !event.ctrlKey && !event.metaKey) markViewed(name);
});
element("viewer").addEventListener("click", (event) => {
  if (event.target === element("viewer")) element("viewer").close(); // a click outside
});
showGroups();

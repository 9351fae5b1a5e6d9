"use strict";
// Data from the dataset enters the page as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const NOTES = {
  "missed object": "An annotated object that all RoIs take for background. Hard to see, or not an object.",
  "wrong class": "An annotated object predicted as another class. Look-alikes, or a wrong label.",
  "poor localization": "An annotated object whose predicted box does not fit. Unclear borders, or a badly drawn box.",
  "nothing annotated": "A predicted object where none is annotated. A look-alike, or a missing box.",
};
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

function makeTile(example, index, list) {
  const boxes = [["predicted", example.predBox]];
  if (example.gtBox) boxes.unshift(["annotated", example.gtBox]);
  const tile = make(
    "button",
    { className: "tile", type: "button", title: shortName(example) },
    makePicture(example.picture, example.crop, boxes, true),
    make(
      "div",
      { className: "text" },
      describe(example),
      make("div", { className: "loss", textContent: `loss ${example.loss.toFixed(2)}` }),
    ),
  );
  tile.addEventListener("click", () => view(list, index));
  return tile;
}

// ---- The grid

function chosen() {
  const kinds = new Set([...document.querySelectorAll("#kinds input:checked")].map((x) => +x.value));
  const wanted = element("class").value;
  const text = element("search").value.toLowerCase();
  return data.examples.filter(
    (x) =>
      kinds.has(x.kind) &&
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
  return make(
    "section",
    {},
    make("h2", { textContent: `${title} (${examples.length})` }),
    make("p", { className: "note", textContent: NOTES[name] }),
    grid,
    more,
  );
}

function showGroups() {
  const byKind = data.kinds.map(() => []);
  const examples = chosen().sort(ORDERS[element("sort").value]);
  for (const x of examples) byKind[x.kind].push(x);
  const all = byKind.flat();
  const groups = byKind.flatMap((x, kind) => (x.length ? [showGroup(kind, x, all)] : []));
  element("groups").replaceChildren(...groups);
  element("count").textContent = `${all.length} of ${data.examples.length}`;
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
  element("previous").disabled = index === 0;
  element("next").disabled = index === list.length - 1;
  if (!element("viewer").open) element("viewer").showModal();
}

// ---- Set-up

data.kinds.forEach((name, kind) => {
  const count = data.examples.filter((x) => x.kind === kind).length;
  const box = make("input", { type: "checkbox", value: kind, checked: true });
  element("kinds").append(make("label", {}, box, ` ${name} (${count})`));
});
data.classes.forEach((name, i) => element("class").append(make("option", { value: i, textContent: name })));
element("filters").addEventListener("input", showGroups);
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("previous").addEventListener("click", () => view(viewed.list, viewed.index - 1));
element("next").addEventListener("click", () => view(viewed.list, viewed.index + 1));
element("close").addEventListener("click", () => element("viewer").close());
element("viewer").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) view(viewed.list, viewed.index + step);
});
element("viewer").addEventListener("click", (event) => {
  if (event.target === element("viewer")) element("viewer").close(); // a click outside
});
showGroups();

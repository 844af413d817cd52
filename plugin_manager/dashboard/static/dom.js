// Elements as values, and a page that is made to match them. Text becomes text nodes and nothing
// else: there is no way from a string to markup here.

const SVG = new Set(["svg", "path", "circle", "rect"]);
const NAMESPACE = "http://www.w3.org/2000/svg";

// What could reorder, hide or break text: control and format characters, unassigned ones, and
// separators other than the space. Publishers write what is shown.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

export function clean(text) {
  return String(text).replace(UNPRINTABLE, (char) => (char === "\n" ? "\n" : "\ufffd"));
}

/** An element as a value; `null`, `false` and `""` among the children are left out. */
export function h(tag, attributes, ...children) {
  const kept = children.flat(3).filter((one) => one !== null && one !== undefined && one !== false && one !== "");
  return { tag, attributes: attributes ?? {}, children: kept };
}

/** Make the children of `parent` match `children`, keeping those elements that stay. */
export function render(parent, ...children) {
  reconcile(parent, h("", {}, ...children).children);
}

function reconcile(parent, wanted) {
  const keyed = new Map();
  for (const node of parent.childNodes) {
    if (node.vkey !== undefined) keyed.set(node.vkey, node);
  }
  let place = parent.firstChild;
  for (const one of wanted) {
    const key = one.attributes?.key;
    let node = key === undefined ? place : (keyed.get(key) ?? null);
    if (node && !fits(node, one, key)) node = null;
    if (node === null) {
      node = create(one);
      parent.insertBefore(node, place);
    } else if (node === place) {
      place = place.nextSibling;
    } else {
      parent.insertBefore(node, place);
    }
    update(node, one);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function fits(node, one, key) {
  if (typeof one !== "object") return node.nodeType === Node.TEXT_NODE;
  return node.nodeType === Node.ELEMENT_NODE && node.localName === one.tag && node.vkey === key;
}

function create(one) {
  if (typeof one !== "object") return document.createTextNode("");
  const node = SVG.has(one.tag)
    ? document.createElementNS(NAMESPACE, one.tag)
    : document.createElement(one.tag);
  node.vkey = one.attributes.key;
  return node;
}

function update(node, one) {
  if (typeof one !== "object") {
    const text = clean(one);
    if (node.data !== text) node.data = text;
    return;
  }
  const before = node.vattributes ?? {};
  for (const [name, value] of Object.entries(one.attributes)) {
    if (JSON.stringify(before[name]) !== JSON.stringify(value)) set(node, name, value);
  }
  for (const name of Object.keys(before)) {
    if (!(name in one.attributes)) set(node, name, null);
  }
  node.vattributes = one.attributes;
  reconcile(node, one.children);
}

function set(node, name, value) {
  if (name === "key") return;
  if (name === "sizes") {
    // Lengths that depend on data; the policy forbids style attributes, rightly.
    for (const [property, length] of Object.entries(value ?? {})) node.style.setProperty(property, length);
  } else if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : clean(value));
  }
}

// Creates elements and patches the page in place, so that focus, form input and open details survive a refresh.
// Text is inserted as text nodes only. Styles are set through the CSSOM, which a strict content security policy allows.

const SVG = 'http://www.w3.org/2000/svg';
const HANDLERS = ['onclick', 'onsubmit', 'onchange', 'ondragover', 'ondragleave', 'ondrop'];

/** Creates an HTML element. `attributes` may contain handlers (`onclick`), booleans and `vars` (CSS custom properties). */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Creates an SVG element. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'vars') {
      for (const [key, number] of Object.entries(value)) element.style.setProperty(`--${key}`, number);
    } else if (typeof value === 'function') {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? '' : value);
    }
  }
  element.append(...nodes(children));
  return element;
}

/** Flattens nested arrays and drops null, undefined and false. */
export function nodes(children) {
  return [children].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Patches `now` to match `next`. Elements with `data-keep`, busy forms, open details and form input are not changed. */
export function patch(now, next) {
  const same = now.nodeType === next.nodeType && now.nodeName === next.nodeName && keyOf(now) === keyOf(next);
  if (!same) return now.replaceWith(next);
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.data !== next.data) now.data = next.data;
    return undefined;
  }
  if (now.hasAttribute('data-keep') || now.getAttribute('aria-busy') === 'true') return undefined;
  patchAttributes(now, next);
  for (const handler of HANDLERS) if (now[handler] !== next[handler]) now[handler] = next[handler];
  return patchChildren(now, next);
}

/** Patches the children of `now`, paired by index, to match those of `next`. */
export function patchChildren(now, next) {
  const before = [...now.childNodes];
  const after = [...next.childNodes];
  after.forEach((child, i) => (before[i] ? patch(before[i], child) : now.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

function patchAttributes(now, next) {
  for (const { name } of [...now.attributes]) {
    if (!next.hasAttribute(name) && !belongsToUser(now, name)) now.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (name === 'style') now.style.cssText = next.style.cssText;
    else if (now.getAttribute(name) !== value && !belongsToUser(now, name)) now.setAttribute(name, value);
  }
}

function belongsToUser(element, attribute) {
  return attribute === 'open' && element.nodeName === 'DETAILS';
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute('data-key') : null;
}

// Makes elements.
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (properties.role) made.setAttribute("role", properties.role);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function button(text, action, properties = {}) {
  const made = element("button", { type: "button", ...properties }, text);
  made.addEventListener("click", action);
  return made;
}

export const option = (text, value = text) => element("option", { value }, text);

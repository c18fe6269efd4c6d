// The HTTP interface of the server.
const token = new URLSearchParams(location.search).get("token") ?? "";
const headers = { Authorization: `Bearer ${token}` };

export const address = (path) => `${path}?token=${encodeURIComponent(token)}`;

/** What the server says went wrong, as one text. */
const textOf = (body, status) => {
  try {
    return JSON.parse(body).error.text;
  } catch {
    return `The server answered ${status}. Is it still running?`;
  }
};

const failure = (body, status) => Object.assign(new Error(textOf(body, status)), { status });

export async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const text = await response.text();
  if (!response.ok) throw failure(text, response.status);
  return text ? JSON.parse(text) : null;
}

/** Upload a form; `progress` is called with the share that is sent. */
export function upload(path, form, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.setRequestHeader("Authorization", headers.Authorization);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(failure(request.responseText, request.status));
    });
    request.addEventListener("error", () => reject(new Error("The upload was interrupted. Is the server still running?")));
    request.send(form);
  });
}

export async function volume(path) {
  const response = await fetch(path, { headers });
  if (!response.ok) throw failure(await response.text(), response.status);
  return response.arrayBuffer();
}

/**
 * Follow all scans by one connection: browsers open only six to a server, whatever the number of scans and tabs.
 * `changed` is called with the scans that changed and the ids of those that are gone, `connected` with whether the server answers.
 */
export function follow(changed, connected) {
  const source = new EventSource(address("/api/events"));
  source.addEventListener("message", (event) => changed(JSON.parse(event.data)));
  source.addEventListener("open", () => connected(true));
  source.addEventListener("error", () => connected(false)); // the browser tries again by itself
}

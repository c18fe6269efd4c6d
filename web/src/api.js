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

export async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const text = await response.text();
  if (!response.ok) throw new Error(textOf(text, response.status));
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
      else reject(new Error(textOf(request.responseText, request.status)));
    });
    request.addEventListener("error", () => reject(new Error("The upload was interrupted. Is the server still running?")));
    request.send(form);
  });
}

export async function volume(path) {
  const response = await fetch(path, { headers });
  if (!response.ok) throw new Error(textOf(await response.text(), response.status));
  return response.arrayBuffer();
}

/** Follow a job; `changed` is called with every state. */
export function follow(id, changed) {
  const source = new EventSource(address(`/api/jobs/${id}/events`));
  source.addEventListener("message", (event) => {
    const job = JSON.parse(event.data);
    changed(job);
    if (!["queued", "running"].includes(job.state)) source.close();
  });
  source.addEventListener("error", () => source.readyState === EventSource.CLOSED && source.close());
  return source;
}

// Shows the volumes of a button in a frame of its own: the viewer is in the page once, compressed.
const packed = document.getElementById("viewer").dataset.page;
for (const button of document.querySelectorAll("button.look")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const page = await new Response(stream).text();
    const frame = document.createElement("iframe");
    frame.setAttribute("sandbox", "allow-scripts allow-downloads");
    frame.title = button.textContent;
    frame.srcdoc = page.replace("@@LAYERS@@", () => button.dataset.layers);
    addEventListener("message", (event) => {
      if (event.source === frame.contentWindow && event.data.mrbridgeHeight > 0) frame.style.height = `${event.data.mrbridgeHeight + 2}px`;
    });
    button.replaceWith(frame);
  });
}

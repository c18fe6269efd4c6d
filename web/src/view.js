// The self-contained page of `mrbridge view`: its scans are in the page.
import { Viewer } from "./viewer.js";

const layers = JSON.parse(document.getElementById("layers").textContent);
for (const layer of layers) {
  layer.packed = true;
  layer.fetch = async () => Uint8Array.from(atob(layer.data), (char) => char.charCodeAt(0)).buffer;
}
const viewer = new Viewer(document.getElementById("viewer"), layers);
// In a report it is in a frame that cannot look inside: it says how high it is.
new ResizeObserver(() => parent.postMessage({ mrbridgeHeight: document.body.scrollHeight }, "*")).observe(document.body);
viewer.show().catch((error) => {
  document.getElementById("viewer").textContent = `The scans cannot be shown (${error.message}). The viewer needs WebGL 2.`;
});

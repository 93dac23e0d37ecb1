// Saves a figure as the browser drew it: its SVG, or that SVG painted at twice its size as a PNG. Nothing leaves the page.
(() => {
  if (window.nbridgeSaves) return;
  window.nbridgeSaves = true;

  const hand = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const standalone = (drawn, title, paper) => {
    const svg = drawn.cloneNode(true);
    const { width, height } = drawn.getBoundingClientRect();
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const said = document.createElementNS("http://www.w3.org/2000/svg", "title");
    said.textContent = title;
    const back = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    back.setAttribute("width", "100%");
    back.setAttribute("height", "100%");
    back.setAttribute("fill", paper);
    svg.prepend(said, back);
    return { text: new XMLSerializer().serializeToString(svg), width, height };
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".nb-save");
    if (!button) return;
    const drawn = document.querySelector(`.st-key-figure-${CSS.escape(button.dataset.figure)} .vega-embed svg.marks`)
      ?? document.querySelector(`.st-key-figure-${CSS.escape(button.dataset.figure)} .vega-embed svg`);
    if (!drawn) return;
    const name = `neural-bridge-${button.dataset.figure}.${button.dataset.kind}`;
    const { text, width, height } = standalone(drawn, button.dataset.title, button.dataset.paper);
    const source = new Blob([text], { type: "image/svg+xml" });
    if (button.dataset.kind === "svg") return hand(source, name);
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = width * 2;
      canvas.height = height * 2;
      const pen = canvas.getContext("2d");
      pen.scale(2, 2);
      pen.drawImage(image, 0, 0, width, height);
      canvas.toBlob((blob) => hand(blob, name), "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });
})();

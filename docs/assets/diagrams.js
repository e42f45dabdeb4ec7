// Draws the diagrams of a page. Their library is large, so only pages that have one load it.
(() => {
  const base = new URL(".", document.currentScript.src);
  const diagrams = [...document.querySelectorAll("pre.diagram")];
  if (!diagrams.length) return;
  const library = document.createElement("script");
  library.src = new URL("vendor/mermaid-tiny-11.17.2.js", base);
  library.onload = async () => {
    const dark = document.body.getAttribute("data-md-color-scheme") === "slate";
    mermaid.initialize({startOnLoad: false, securityLevel: "strict", theme: dark ? "dark" : "neutral"});
    for (const [number, pre] of diagrams.entries()) {
      const {svg} = await mermaid.render(`diagram-${number}`, pre.textContent);
      const figure = document.createElement("figure");
      figure.className = "diagram";
      figure.innerHTML = svg;
      pre.replaceWith(figure);
    }
  };
  document.head.append(library);
})();

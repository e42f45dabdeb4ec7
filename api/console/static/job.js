// A job's page while it runs: its stream as it comes, and the whole page anew at its end.
"use strict";
(() => {
  const place = document.getElementById("stream");
  const job = document.querySelector("[data-job]")?.dataset.job;
  if (!job || document.body.dataset.live !== "on") return;
  let source = null;
  let last = ""; // the id of the last event: a page that comes back continues after it

  function text(chunk) {
    const delta = chunk.choices?.[0]?.delta;
    return delta?.content ?? delta?.reasoning ?? chunk.choices?.[0]?.text ?? chunk.delta?.text ?? "";
  }

  function write(chunk) {
    if (!place) return;
    const stays = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
    place.append(text(chunk));
    if (stays) place.scrollTop = place.scrollHeight;
  }

  function follow() {
    if (source || document.hidden) return;
    const after = last ? `?after=${encodeURIComponent(last)}` : "";
    source = new EventSource(`${penstock.root}console/api/v1/jobs/${job}/events${after}`);
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        last = event.lastEventId || last;
        act(event);
      });
    for (const end of ["succeeded", "failed", "cancelled", "expired"])
      on(end, () => {
        leave();
        location.reload();
      });
    on("running", penstock.refresh);
    on("restarted", () => {
      if (place) place.textContent = "";
      penstock.refresh();
    });
    on("chunk", (event) => write(JSON.parse(event.data)));
  }

  function leave() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  addEventListener("pagehide", leave);
  follow();
})();

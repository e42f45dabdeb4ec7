// A job's page while it runs: its stream as it comes, and the whole page anew at its end.
"use strict";
(() => {
  const place = document.getElementById("stream");
  const job = document.querySelector("[data-job]")?.dataset;
  if (!job || document.body.dataset.live !== "on") return;

  function texts(chunk) {
    const choice = chunk.choices?.[0];
    return choice?.delta?.content ?? choice?.delta?.reasoning ?? choice?.text ?? chunk.delta?.text ?? "";
  }

  const source = new EventSource(`${penstock.root}console/api/v1/jobs/${job.job}/events`);
  const again = () => location.reload();
  for (const end of ["succeeded", "failed", "cancelled", "expired"])
    source.addEventListener(end, () => {
      source.close();
      again();
    });
  source.addEventListener("running", () => penstock.refresh());
  source.addEventListener("restarted", () => {
    if (place) place.textContent = "";
    penstock.refresh();
  });
  source.addEventListener("chunk", (event) => {
    if (!place) return;
    const stays = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
    place.append(texts(JSON.parse(event.data)));
    if (stays) place.scrollTop = place.scrollHeight;
  });
  addEventListener("pagehide", () => source.close());
})();

// Leaves out of a question what every page has. The search takes each word as the beginning of one, so that "a job" would
// find whatever has a word with "a". Loaded before the theme, which starts the search's worker.
(() => {
  const QUERY = 2; // the theme's number of this message
  const IDLE = new Set(
    ("a about an and are at be by can do does for from get have how i in is it its me my of on one or our so than that the " +
      "their them then there these they this to use using we what when where which who why will with you your").split(" "),
  );
  const Plain = window.Worker;
  window.Worker = class extends Plain {
    postMessage(message) {
      if (message && message.type === QUERY) {
        const words = message.data.split(/\s+/).filter((word) => !IDLE.has(word.toLowerCase().replace(/[?!.,]+$/, "")));
        if (words.length) message = {...message, data: words.join(" ").replace(/[?!]+/g, "")};
      }
      super.postMessage(message);
    }
  };
})();

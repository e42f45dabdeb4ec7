/**
 * Put an element's text into the clipboard. A page without TLS has none, except on this machine: then the text is selected.
 *
 * @param {HTMLElement} element
 * @returns {Promise<string>} what to tell the user
 */
export async function copy(element) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(element.textContent);
    return "Copied.";
  }
  getSelection().selectAllChildren(element);
  return "This page has no access to the clipboard. The text is selected: press Ctrl+C.";
}

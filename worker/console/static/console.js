// Times in the reader's zone; the exact one, in UTC, is in the title.
(() => {
  "use strict";
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const today = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const show = (root) => {
    const now = new Date().toDateString();
    for (const element of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      if (!Number.isNaN(moment.getTime())) {
        element.textContent = (moment.toDateString() === now ? today : format).format(moment);
      }
    }
  };
  show(document);
  document.addEventListener("htmx:afterSwap", () => show(document));
  // What changes something is asked about first.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
    }
  });
  // "/" goes to the first field of the search.
  document.addEventListener("keydown", (event) => {
    const first = document.querySelector("form.search input");
    if (event.key === "/" && first && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      first.focus();
    }
  });
})();

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
  const stale = document.getElementById("stale");
  document.addEventListener("htmx:afterSwap", () => {
    show(document);
    stale.textContent = stale.className = "";
  });
  // The ledger or the console is away: what is shown grows old.
  for (const failure of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(failure, () => {
      stale.className = "note";
      stale.textContent = "! This page cannot be updated now: it shows what was read last. It tries again by itself.";
    });
  }
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

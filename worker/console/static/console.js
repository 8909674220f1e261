// Times in the reader's zone; or in UTC, by a switch in the footer.
(() => {
  "use strict";
  // The switches in the footer; the browser remembers them, if it may.
  const switches = {};
  const recall = (name) => {
    try {
      return localStorage.getItem(`unlink-${name}`);
    } catch {
      return null;
    }
  };
  const remember = (name, on) => {
    try {
      localStorage.setItem(`unlink-${name}`, on ? "on" : "off");
    } catch {
      // It holds for this page.
    }
  };
  for (const button of document.querySelectorAll("button[data-switch]")) {
    const name = button.dataset.switch;
    const set = (on) => {
      switches[name] = on;
      button.setAttribute("aria-pressed", String(on));
    };
    set((recall(name) ?? button.dataset.first) === "on");
    button.hidden = false;
    button.addEventListener("click", () => {
      set(!switches[name]);
      remember(name, switches[name]);
      show(document);
    });
  }
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const today = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  function show(root) {
    const now = new Date().toDateString();
    for (const element of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      if (switches.utc) {
        element.textContent = element.title;
      } else if (!Number.isNaN(moment.getTime())) {
        element.textContent = (moment.toDateString() === now ? today : format).format(moment);
      }
    }
  }
  show(document);
  const stale = document.getElementById("stale");
  const say = (text) => {
    stale.className = text && "note";
    stale.textContent = text;
  };
  // What an update has changed is announced to screen readers, in an element that is there before.
  const announced = document.getElementById("announced");
  const state = () => document.querySelector("[data-state]")?.dataset.state;
  let before = state();
  // An update leaves readers where they are: what they look at in its place, details open. htmx returns the focus to
  // the element of the same ID.
  let looked, opened;
  const topOf = (element) => element.getBoundingClientRect().top;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    const selection = getSelection();
    if (event.detail.shouldSwap && !selection.isCollapsed && part.contains(selection.anchorNode)) {
      event.detail.shouldSwap = false;
      say("This page is not updated while a text of it is selected.");
      return;
    }
    const visible = (element) => topOf(element) >= 0 && topOf(element) < innerHeight;
    const focused = document.activeElement;
    const marks = [...part.querySelectorAll("[id]")];
    const mark = part.contains(focused) && focused.id && visible(focused) ? focused : marks.find(visible);
    looked = mark && { id: mark.id, top: topOf(mark) };
    opened = marks.filter((element) => element.open).map((element) => element.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    show(document);
    say("");
    if (state() !== before) {
      before = state();
      announced.textContent = before ?? "";
    }
    for (const id of opened) {
      document.getElementById(id)?.setAttribute("open", "");
    }
    const mark = looked && document.getElementById(looked.id);
    if (mark) {
      scrollBy(0, topOf(mark) - looked.top);
    }
  });
  // The ledger or the console is away: what is shown grows old.
  for (const failure of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(failure, () => {
      say("! This page cannot be updated now: it shows what was read last. It tries again by itself.");
    });
  }
  // What changes something is asked about first.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
    }
  });
  // "/" goes to the first field of the search. It can be switched off: who speaks to the browser may say "slash".
  document.addEventListener("keydown", (event) => {
    const first = document.querySelector("form.search input:not([type=hidden])");
    const plain = event.key === "/" && !event.ctrlKey && !event.altKey && !event.metaKey && !event.isComposing;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (plain && switches.slash && first && !typing) {
      event.preventDefault();
      first.focus();
    }
  });
})();

(() => {
  "use strict";
  const root = document.documentElement, tip = document.getElementById("tip");

  // Theme: as the system has it, or light, or dark.
  const button = document.getElementById("theme"), order = ["auto", "light", "dark"];
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    button.querySelector("span").textContent = next;
  });

  // Values under the pointer, or by the arrow keys. Texts are set as text, never as HTML.
  const show = (plot, hit, left, top) => {
    const cross = plot.querySelector(".cross");
    cross.setAttribute("x1", hit.dataset.x);
    cross.setAttribute("x2", hit.dataset.x);
    plot.classList.add("live");
    tip.textContent = hit.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), room = root.clientWidth - box.width - 8;
    const beside = left + 16 > room ? left - box.width - 16 : left + 16;
    tip.style.left = Math.max(8, Math.min(beside, room)) + "px";
    tip.style.top = Math.max(8, Math.min(top - box.height / 2, root.clientHeight - box.height - 8)) + "px";
  };
  const hide = plot => { plot.classList.remove("live"); tip.hidden = true; };
  for (const plot of document.querySelectorAll("svg.plot[tabindex]")) {
    const hits = [...plot.querySelectorAll(".hit")];
    let at = hits.length - 1;
    for (const hit of hits) {  // our own tip replaces the browser's
      const title = hit.querySelector("title");
      hit.dataset.tip = title.textContent;
      title.remove();
    }
    const within = left => {
      const places = hits.map(hit => hit.getBoundingClientRect());
      const found = places.findIndex(place => left < place.right);
      return found < 0 ? hits.length - 1 : found;
    };
    const follow = event => { at = within(event.clientX); show(plot, hits[at], event.clientX, event.clientY); };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => hide(plot));
    plot.addEventListener("blur", () => hide(plot));
    plot.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -hits.length, End: hits.length }[event.key];
      if (event.key === "Escape") hide(plot);
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(hits.length - 1, plot.classList.contains("live") ? at + step : at));
      const place = hits[at].getBoundingClientRect();
      show(plot, hits[at], place.left + place.width / 2, place.top + place.height / 2);
    });
  }
  addEventListener("scroll", () => { for (const plot of document.querySelectorAll(".plot.live")) hide(plot); }, { passive: true });

  // A legend's entry lights up its series.
  for (const item of document.querySelectorAll(".legend li[data-series]")) {
    const figure = item.closest("figure");
    if (!figure) continue;
    const light = on => {
      for (const plot of figure.querySelectorAll(".plot")) plot.classList.toggle("lit", on);
      for (const mark of figure.querySelectorAll("g[data-series]")) {
        mark.classList.toggle("on", on && mark.dataset.series === item.dataset.series);
      }
    };
    item.tabIndex = 0;
    for (const [name, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
      item.addEventListener(name, () => light(on));
    }
  }

  for (const copy of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) break;
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(copy.previousElementSibling.textContent);
        copy.textContent = "Copied";
      } catch { copy.textContent = "Not allowed"; }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  }
})();
